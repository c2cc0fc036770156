import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, silentLog } from '../../base/index.ts'
import {
  createNetwork,
  loadClusterKey,
  type MembershipControl,
  type Network,
} from '../../manager/network/index.ts'
import { createRpc } from '../../manager/wire/index.ts'

interface Daemon {
  network: Network
  members: MembershipControl
  directory: string
  address: string
}

const log = silentLog()
const running = new Set<Daemon>()
const directories: string[] = []
const children: ChildProcess[] = []

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  await Promise.all([...running].map(stop))
  await Promise.all(directories.splice(0).map((path) => rm(path, { recursive: true, force: true })))
})

async function directory(key?: Daemon): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'shoal-network-'))
  directories.push(path)
  if (key !== undefined) await cp(key.network.clusterKeyPath, join(path, 'cluster.key'))
  return path
}

async function start(options: {
  in: string
  name: string
  bootstrap?: string[]
  site?: string
  listen?: string
}): Promise<Daemon> {
  const { name, bootstrap = [], site = 'default', listen = '/ip4/127.0.0.1/tcp/0' } = options
  const network = await createNetwork({ dataDir: options.in, listen: [listen], log })
  const rpc = await createRpc({ node: network.node, log })
  const members = network.join({ rpc, name, site, bootstrap })
  const daemon = { network, members, directory: options.in, address: network.addresses()[0]! }
  running.add(daemon)
  return daemon
}

/** Without a goodbye, as a crash is. */
async function stop(daemon: Daemon): Promise<void> {
  running.delete(daemon)
  daemon.members.close()
  await daemon.network.close()
}

async function waitFor(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !condition() && performance.now() < end; ) await sleep(20)
  assert.ok(condition(), what)
}

function names(daemon: Daemon): string {
  return daemon.members
    .site()
    .map((member) => `${member.name} ${member.state}`)
    .sort()
    .join(', ')
}

test('three nodes form a site from one address; a crash, a goodbye and a return are noticed', async () => {
  const a = await start({ in: await directory(), name: 'a' })
  const b = await start({ in: await directory(a), name: 'b', bootstrap: [a.address] })
  const c = await start({
    in: await directory(a),
    name: 'c',
    bootstrap: [`${a.address}/p2p/${a.network.identity.peerId}`, a.address],
  })
  await Promise.all([b.members.settled, c.members.settled])
  for (const daemon of [a, b, c]) {
    await waitFor('all see all', () => names(daemon) === 'a alive, b alive, c alive')
  }
  assert.equal(b.members.find('c')?.id, c.network.identity.peerId)
  assert.deepEqual(b.members.find('c')?.addrs, [c.address])

  await stop(c)
  await waitFor(
    'the crash is noticed',
    () => a.members.find('c')?.state === 'dead' && names(b) === 'a alive, b alive',
  )

  const again = await start({ in: c.directory, name: 'c', bootstrap: [a.address] })
  assert.equal(again.network.identity.peerId, c.network.identity.peerId)
  for (const daemon of [a, b, again]) {
    await waitFor('it is back', () => names(daemon) === 'a alive, b alive, c alive')
  }

  await again.members.leave()
  await waitFor('the goodbye is heard', () => a.members.find('c')?.state === 'left')
  await waitFor('by all', () => b.members.find('c')?.state === 'left')
})

test('a killed process is dead to the others, and a lost first node is found again by them', async () => {
  const seed = await start({ in: await directory(), name: 'seed' })
  const other = await start({ in: await directory(seed), name: 'other', bootstrap: [seed.address] })
  const child = fork(join(import.meta.dirname, 'network-child.ts'), [await directory(seed), seed.address])
  children.push(child)
  await waitFor('the process joins', () => seed.members.find('child')?.state === 'alive')
  await waitFor('and is known to all', () => other.members.find('child')?.state === 'alive')
  child.kill('SIGKILL')
  await waitFor('the kill is noticed', () => seed.members.find('child')?.state === 'dead')
  await waitFor('by all', () => other.members.find('child')?.state === 'dead')

  // The first node knows nobody after its restart, and nobody is its bootstrap address.
  await stop(seed)
  await waitFor('the seed is missed', () => other.members.find('seed')?.state === 'dead')
  const again = await start({ in: seed.directory, name: 'seed', listen: seed.address })
  await waitFor('and found', () => names(again) === 'other alive, seed alive')
})

test('a site is found by the API of a node, and by a DNS name that leads to this node as well', async () => {
  const a = await start({ in: await directory(), name: 'a' })
  const api = createServer((request, response) => {
    assert.equal(request.url, '/api/v1/status')
    response.end(JSON.stringify({ id: a.network.identity.peerId, addrs: [a.address] }))
  })
  api.listen(0, '127.0.0.1')
  await once(api, 'listening')
  const { port } = api.address() as { port: number }
  const b = await start({ in: await directory(a), name: 'b', bootstrap: [`http://127.0.0.1:${port}`] })
  await waitFor('by API', () => names(a) === 'a alive, b alive')
  const libp2pPort = a.address.split('/').at(-1)
  const c = await start({ in: await directory(a), name: 'c', bootstrap: [`dns:localhost:${libp2pPort}`] })
  await waitFor('by name', () => names(b) === 'a alive, b alive, c alive')
  const own = b.address.split('/').at(-1)
  await stop(b)
  const again = await start({
    in: b.directory,
    name: 'b',
    listen: b.address,
    bootstrap: [`dns:localhost:${own}`, `dns:localhost:${libp2pPort}`],
  })
  await again.members.settled
  await waitFor('itself left out', () => names(again) === 'a alive, b alive, c alive')
  assert.equal(c.members.list().length, 3)
  api.closeAllConnections()
  api.close()
})

test('nodes with another key stay strangers; one alone settles at once', async () => {
  const a = await start({ in: await directory(), name: 'a' })
  await a.members.settled
  const stranger = await start({ in: await directory(), name: 'stranger', bootstrap: [a.address] })
  await stranger.members.settled
  assert.equal(names(a), 'a alive')
  assert.equal(names(stranger), 'stranger alive')
})

test('identity and cluster key are private files that outlast restarts', async () => {
  const path = await directory()
  const [one, two] = await Promise.all([
    loadClusterKey({ directory: path }),
    loadClusterKey({ directory: path }),
  ])
  assert.deepEqual(one.key, two.key)
  const a = await start({ in: path, name: 'a' })
  for (const file of ['identity.pem', 'cluster.key']) {
    assert.equal((await stat(join(path, file))).mode & 0o777, 0o600, file)
  }
  const text = await readFile(join(path, 'cluster.key'), 'utf8')
  assert.equal(Buffer.from(text, 'base64').length, 32)
  const { identity } = a.network
  const bytes = Buffer.from('something said')
  const signature = identity.sign(bytes)
  assert.ok(identity.verify(identity.peerId, bytes, signature))
  assert.ok(!identity.verify(identity.peerId, Buffer.from('something else'), signature))
  assert.ok(!identity.verify('nobody', bytes, signature))
  assert.ok(!identity.verify(identity.peerId, bytes, signature.subarray(1)))
})

test('a malformed bootstrap address is refused with an example', async () => {
  const path = await directory()
  for (const bad of ['somewhere', '/ip4/1.2.3.4', '/ip4/1.2.3.4/udp/5', 'dns:', 'dns:x:99999', 'http://']) {
    const network = await createNetwork({ dataDir: path, listen: [], log })
    const rpc = await createRpc({ node: network.node, log })
    assert.throws(
      () => network.join({ rpc, name: 'a', site: 'default', bootstrap: [bad] }),
      (error) => isShoalError(error, 'CONFIG') && error.message.includes('dns:NAME'),
      bad,
    )
    await network.close()
  }
})
