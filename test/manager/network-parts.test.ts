import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import fc from 'fast-check'
import { isShoalError, silentLog } from '../../base/index.ts'
import {
  createActivity,
  createLinks,
  createNode,
  dialableAddresses,
  loadClusterKey,
  loadIdentity,
} from '../../manager/network/index.ts'
import { createLobby } from '../../manager/network/lobby.ts'
import { farNeighbours, MESH, nearNeighbours } from '../../manager/network/membership/neighbours.ts'
import { createTable } from '../../manager/network/membership/table.ts'
import type { Member, MemberState } from '../../manager/types.ts'

function member(id: string, change: Partial<Member> = {}): Member {
  return { id, name: id, site: 'default', addrs: [], state: 'alive', incarnation: 1, ...change }
}

describe('keys in files', () => {
  let directory = ''
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'shoal-keys-'))
  })
  after(() => rm(directory, { recursive: true }))

  const keyOf = async (content: string | Buffer) => {
    const file = join(directory, 'given.key')
    await writeFile(file, content)
    return (await loadClusterKey({ directory, file })).key
  }

  test('a cluster key may be text or bytes; white space around it does not count', async () => {
    const text = randomBytes(32).toString('base64')
    assert.deepEqual(await keyOf(text), await keyOf(`  ${text}\r\n`))
    assert.notDeepEqual(await keyOf(text), await keyOf(text.toLowerCase()))
    assert.equal((await keyOf(randomBytes(48))).length, 32)
    assert.equal((await keyOf(randomBytes(32).toString('hex'))).length, 32)
  })

  test('a key that could be guessed is refused, with advice', async () => {
    const weak = [
      '',
      '\n',
      'secret',
      'correct horse battery',
      'a'.repeat(200),
      'abcabc'.repeat(10),
      'x'.repeat(5000),
    ]
    for (const content of weak) {
      await assert.rejects(
        keyOf(content),
        (error) => isShoalError(error, 'CONFIG') && error.message.includes('/dev/urandom'),
        content.slice(0, 20),
      )
    }
    await assert.rejects(
      loadClusterKey({ directory, file: join(directory, 'nowhere') }),
      (error) => isShoalError(error, 'CONFIG') && error.message.includes('ENOENT'),
    )
  })

  test('a broken identity is a clear error, and never replaced; a readable one is made private', async () => {
    const { peerId } = await loadIdentity(directory)
    const path = join(directory, 'identity.pem')
    await writeFile(path, 'half a fi')
    await assert.rejects(loadIdentity(directory), (error) => isShoalError(error, 'CONFIG'))
    await rm(path)
    const next = await loadIdentity(directory)
    assert.notEqual(next.peerId, peerId)
    const { chmod } = await import('node:fs/promises')
    await chmod(path, 0o644)
    assert.equal((await loadIdentity(directory)).peerId, next.peerId)
    assert.equal((await stat(path)).mode & 0o777, 0o600)
  })

  test('of several first starts at once all get one identity', async () => {
    const shared = join(directory, 'shared')
    const all = await Promise.all(Array.from({ length: 5 }, () => loadIdentity(shared)))
    assert.equal(new Set(all.map(({ peerId }) => peerId)).size, 1)
  })
})

test('the lobby takes seats from the host that has most of them, the oldest first', () => {
  const lobby = createLobby({ capacity: 4 })
  const early = lobby.enter('member')
  const flood = [lobby.enter('flood'), lobby.enter('flood'), lobby.enter('flood')]
  const late = lobby.enter('member')
  assert.deepEqual(
    [early, ...flood, late].map((seat) => seat.signal.aborted),
    [false, true, false, false, false],
  )
  for (const seat of [early, ...flood, late]) seat.leave()
  assert.equal(lobby.size(), 0)
})

test('announced addresses are those that others can dial', () => {
  const interfaces = [
    { name: 'lo', address: '127.0.0.1', family: 'ip4' as const, loopback: true },
    { name: 'docker0', address: '172.17.0.1', family: 'ip4' as const, loopback: false },
    { name: 'eth0', address: '192.168.1.5', family: 'ip4' as const, loopback: false },
    { name: 'eth0', address: 'fe80::1', family: 'ip6' as const, loopback: false },
    { name: 'eth0', address: '2001:db8::5', family: 'ip6' as const, loopback: false },
  ]
  assert.deepEqual(dialableAddresses(['/ip4/0.0.0.0/tcp/5082'], interfaces), [
    '/ip4/192.168.1.5/tcp/5082',
    '/ip4/172.17.0.1/tcp/5082',
  ])
  assert.deepEqual(dialableAddresses(['/ip6/::/tcp/1'], interfaces), ['/ip6/2001:db8::5/tcp/1'])
  assert.deepEqual(dialableAddresses(['/ip4/127.0.0.1/tcp/1'], interfaces), ['/ip4/127.0.0.1/tcp/1'])
  assert.deepEqual(dialableAddresses(['/ip4/0.0.0.0/tcp/1'], interfaces.slice(0, 1)), [
    '/ip4/127.0.0.1/tcp/1',
  ])
  assert.deepEqual(dialableAddresses([], interfaces), [])
})

const anyMember = fc
  .record({
    id: fc.constantFrom('A', 'B', 'C'),
    incarnation: fc.integer({ min: 0, max: 3 }),
    state: fc.constantFrom<MemberState>('alive', 'suspect', 'dead', 'left'),
  })
  .map(({ id, ...change }) => member(id, change))

test('tables that heard the same in any order, however often, are equal, and so are their digests', () => {
  const self = member('S')
  fc.assert(
    fc.property(fc.array(anyMember, { maxLength: 20 }), fc.integer(), (records, salt) => {
      const [one, two] = [createTable(), createTable()]
      for (const record of records) one.apply(record)
      const shuffled = [...records, ...records].sort(
        (a, b) => ((a.incarnation + salt) % 7) - ((b.incarnation + salt) % 5),
      )
      for (const record of shuffled) two.apply(record)
      const view = (table: typeof one) =>
        [...table.values()].map(({ id, state, incarnation }) => `${id}${state}${incarnation}`).sort()
      assert.deepEqual(view(one), view(two))
      assert.equal(one.digest(self), two.digest(self))
    }),
  )
})

test('neighbours are mutual, few, and connect the whole site', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 120 }), fc.integer({ min: 0, max: 1000 }), (count, salt) => {
      const all = Array.from({ length: count }, (_, i) => member(`m${salt}-${i}`))
      const near = new Map(
        all.map(({ id }) => [
          id,
          nearNeighbours(
            id,
            all.filter((other) => other.id !== id),
          ).map((other) => other.id),
        ]),
      )
      for (const [id, neighbours] of near) {
        assert.ok(neighbours.length >= 1 && neighbours.length < MESH)
        for (const neighbour of neighbours) assert.ok(near.get(neighbour)!.includes(id))
      }
      const reached = new Set([all[0]!.id])
      for (const id of reached) for (const neighbour of near.get(id)!) reached.add(neighbour)
      assert.equal(reached.size, count)
    }),
    { numRuns: 30 },
  )
  const far = Array.from({ length: 60 }, (_, i) => member(`f${i}`, { site: `site${i % 20}` }))
  assert.ok(farNeighbours('x', far).length <= 8)
  assert.equal(farNeighbours('x', far.slice(0, 1)).length, 1)
})

test('links dial whichever address answers, know their own, and tell of closed connections', async () => {
  const clusterKey = randomBytes(32)
  const make = async (listen: string[]) => {
    const activity = createActivity()
    const privateKey = await generateKeyPair('Ed25519')
    const node = await createNode({ privateKey, clusterKey, listen, track: activity.track })
    const links = createLinks({ node, activity, log: silentLog() })
    return { node, links, id: node.peerId.toString(), address: node.getMultiaddrs()[0]?.toString() ?? '' }
  }
  const a = await make(['/ip4/127.0.0.1/tcp/0'])
  const b = await make(['/ip4/127.0.0.1/tcp/0'])
  const c = await make(['/ip4/127.0.0.1/tcp/0'])
  const signal = AbortSignal.timeout(10_000)

  // A blackhole (RFC 5737) must not hold up the address that works, and others answering are not taken for the peer.
  const addrs = ['/ip4/192.0.2.1/tcp/9', '/ip4/127.0.0.1/tcp/1', c.address, b.address]
  assert.equal(await a.links.connect({ peer: b.id, addrs }, signal), b.id)
  assert.ok(a.links.connected(b.id))
  assert.equal(await a.links.connect({ peer: b.id, addrs: [] }, signal), b.id, 'it is connected already')
  assert.ok(a.links.heardAt(b.id) > 0)
  assert.equal(a.links.heardAt('nobody'), Number.NEGATIVE_INFINITY)
  assert.ok(!a.links.connected('no peer ID'))
  a.links.remember('no peer ID', ['no address'])
  a.links.drop('no peer ID')

  for (const target of [{ addrs: [a.address] }, { peer: a.id, addrs: [b.address] }]) {
    await assert.rejects(a.links.connect(target, signal), (error) => isShoalError(error, 'LOOP'))
  }
  await assert.rejects(
    a.links.connect({ peer: b.id.replace(/.$/, '1'), addrs: [c.address] }, signal),
    (error) => isShoalError(error, 'PEER_GONE'),
  )
  await assert.rejects(a.links.connect({ addrs: ['/ip4/127.0.0.1/tcp/1', 'nonsense'] }, signal), (error) =>
    isShoalError(error, 'PEER_GONE'),
  )

  const closed = new Promise((resolve) => b.links.onClose(resolve))
  a.links.drop(b.id)
  assert.equal(await closed, a.id)
  for (const { node, links } of [a, b, c]) {
    links.close()
    await node.stop()
  }
})

test('both ends may dial at once', async () => {
  const clusterKey = randomBytes(32)
  const make = async () =>
    await createNode({
      privateKey: await generateKeyPair('Ed25519'),
      clusterKey,
      listen: ['/ip4/127.0.0.1/tcp/0'],
    })
  const [a, b] = [await make(), await make()]
  await Promise.all([a.dial(b.getMultiaddrs()[0]!), b.dial(a.getMultiaddrs()[0]!)])
  await a.handle('/x', (stream) => stream.addEventListener('message', ({ data }) => stream.send(data)))
  for (const connection of b.getConnections(a.peerId)) {
    const stream = await connection.newStream('/x')
    const echo = new Promise((resolve) => stream.addEventListener('message', resolve, { once: true }))
    stream.send(Buffer.from('still there'))
    await echo
  }
  await Promise.all([a.stop(), b.stop()])
})
