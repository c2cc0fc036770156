import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { createSwarm, pull, type Swarm } from './swarm.ts'
import { until } from './until.ts'

const MIB = 2 ** 20

describe('tasks of a site', () => {
  let swarm: Swarm
  beforeEach(async () => {
    swarm = await createSwarm()
  })
  afterEach(() => swarm.close())

  it('pulls through a lone node, and again from its disk', async () => {
    const node = await swarm.add()
    const digest = swarm.upstream.add(10 * MIB + 12_345)
    const first = await pull(swarm, node, digest)
    assert.deepEqual(first, { local: 0, peers: 0, upstream: 10 * MIB + 12_345 })
    const second = await pull(swarm, node, digest)
    assert.deepEqual(second, { local: 10 * MIB + 12_345, peers: 0, upstream: 0 })
    assert.equal(swarm.upstream.bytes, 10 * MIB + 12_345)
    assert.equal(await node.manager.holds(digest), true)
  })

  it('takes blobs of every awkward size', async () => {
    const node = await swarm.add()
    const other = await swarm.add()
    for (const size of [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 4 * MIB, 4 * MIB + 1]) {
      const digest = swarm.upstream.add(size)
      await pull(swarm, node, digest)
      await pull(swarm, other, digest)
    }
  })

  it('crosses the uplink once for many nodes at the same moment', async () => {
    const nodes = await Promise.all(Array.from({ length: 6 }, () => swarm.add()))
    const digest = swarm.upstream.add(24 * MIB)
    swarm.upstream.pace = 1
    const sources = await Promise.all(nodes.map((node) => pull(swarm, node, digest)))
    assert.equal(swarm.upstream.bytes, 24 * MIB)
    for (const got of sources) assert.equal(got.local + got.peers + got.upstream, 24 * MIB)
  })

  it('serves a later node from the neighbours with the uplink cut', async () => {
    const [a, b] = [await swarm.add(), await swarm.add()]
    const digest = swarm.upstream.add(9 * MIB)
    await pull(swarm, a!, digest)
    swarm.upstream.up = false
    const got = await pull(swarm, b!, digest)
    assert.deepEqual(got, { local: 0, peers: 9 * MIB, upstream: 0 })
    const c = await swarm.add()
    assert.equal((await pull(swarm, c, digest)).peers, 9 * MIB)
  })

  it('says at once what cannot be had', async () => {
    const node = await swarm.add()
    await swarm.add()
    const digest = swarm.upstream.add(MIB)
    swarm.upstream.up = false
    await assert.rejects(pull(swarm, node, digest), { code: 'UPSTREAM_UNREACHABLE' })
    swarm.upstream.up = true
    const unknown = swarm.upstream.add(MIB)
    swarm.upstream.blobs.delete(unknown)
    await assert.rejects(pull(swarm, node, unknown), { code: 'NOT_FOUND' })
  })

  it('works with an upstream without ranges and without a length', async () => {
    swarm.upstream.ranges = false
    for (const sized of [true, false]) {
      swarm.upstream.sized = sized
      swarm.upstream.bytes = 0
      const nodes = await Promise.all(Array.from({ length: 3 }, () => swarm.add()))
      const digest = swarm.upstream.add(9 * MIB + 17)
      swarm.upstream.pace = 1
      await Promise.all(nodes.map((node) => pull(swarm, node, digest)))
      assert.ok(swarm.upstream.bytes < 1.5 * 9 * MIB, `${swarm.upstream.bytes} crossed the uplink`)
    }
  })

  it('goes on when the coordinator or a seeder dies', async () => {
    const nodes = await Promise.all(Array.from({ length: 5 }, () => swarm.add()))
    const digest = swarm.upstream.add(24 * MIB)
    swarm.upstream.pace = 2
    const pulls = nodes.map((node) => pull(swarm, node, digest).catch((error) => error))
    const coordinatorOf = () => nodes[0]!.manager.tasks()[0]?.coordinator
    const found = () => nodes.find((node) => node.id === coordinatorOf())
    // Somewhere in the middle: the first blocks are here.
    await until(() => swarm.upstream.bytes > MIB && found() !== undefined)
    await swarm.kill(found()!)
    const results = await Promise.all(pulls)
    const failed = results.filter((result) => result instanceof Error)
    assert.equal(failed.length, 1, 'only the killed node fails')
    assert.ok(swarm.upstream.bytes < 1.4 * 24 * MIB, `${swarm.upstream.bytes} crossed the uplink`)
  })

  it('goes on from what is on the disk after a restart', async () => {
    const node = await swarm.add()
    const digest = swarm.upstream.add(16 * MIB)
    swarm.upstream.pace = 2
    const stop = new AbortController()
    const onBytes = (total: number): void => {
      if (total > 6 * MIB) stop.abort(new Error('client gone'))
    }
    await assert.rejects(pull(swarm, node, digest, { signal: stop.signal, onBytes }))
    await swarm.kill(node)
    const before = swarm.upstream.bytes
    const again = await swarm.add({ dir: node.dir })
    const got = await pull(swarm, again, digest)
    assert.ok(got.local >= 6 * MIB)
    assert.equal(swarm.upstream.bytes - before, 16 * MIB - got.local)
  })

  it('shuns a peer that sends corrupt blocks', async () => {
    const [good, liar, third] = [await swarm.add(), await swarm.add(), await swarm.add()]
    const digest = swarm.upstream.add(12 * MIB)
    await pull(swarm, good!, digest)
    await pull(swarm, liar!, digest)
    liar!.spoil = async (bytes) => {
      bytes[5]! ^= 1
      return bytes
    }
    swarm.upstream.up = false
    const got = await pull(swarm, third!, digest)
    assert.equal(got.peers, 12 * MIB)
    assert.equal(third!.manager.peers().find((p) => p.member.id === liar!.id)?.shunned, true)
  })

  it('hedges against a peer that stalls and one that has not what it claimed', async () => {
    const [good, stalls, empty, third] = await Promise.all([1, 2, 3, 4].map(() => swarm.add()))
    const digest = swarm.upstream.add(12 * MIB)
    for (const node of [good, stalls, empty]) await pull(swarm, node!, digest)
    stalls!.spoil = () => new Promise(() => {})
    empty!.spoil = async () => {
      throw new ShoalError('BLOCK_MISSING', 'not here')
    }
    swarm.upstream.up = false
    assert.equal((await pull(swarm, third!, digest)).peers, 12 * MIB)
  })

  it('finds the seeder of a wrong cut and fetches its blocks again', async () => {
    const nodes = await Promise.all(Array.from({ length: 3 }, () => swarm.add()))
    const digest = swarm.upstream.add(12 * MIB)
    swarm.upstream.pace = 2
    swarm.upstream.twist = (node, bytes) => {
      if (node !== nodes[1]!.id) return bytes
      const wrong = Buffer.from(bytes)
      wrong[0]! ^= 1
      return wrong
    }
    const first = await Promise.allSettled(nodes.map((node) => pull(swarm, node, digest)))
    for (const result of first) {
      if (result.status === 'rejected') assert.equal(result.reason.code, 'DIGEST_MISMATCH')
    }
    // A client that was given wrong bytes is cut off; when it comes again, they have been replaced.
    for (const node of nodes) await pull(swarm, node, digest)
  })

  it('never gives a complete wrong blob when upstream itself is wrong', async () => {
    const nodes = await Promise.all(Array.from({ length: 2 }, () => swarm.add()))
    const digest = swarm.upstream.add(5 * MIB)
    swarm.upstream.twist = (_node, bytes) => Buffer.alloc(bytes.length, 7)
    let most = 0
    const onBytes = (total: number): void => {
      most = Math.max(most, total)
    }
    for (const result of await Promise.allSettled(nodes.map((n) => pull(swarm, n, digest, { onBytes })))) {
      assert.equal(result.status, 'rejected')
      assert.equal((result as PromiseRejectedResult).reason.code, 'DIGEST_MISMATCH')
    }
    assert.ok(most < 5 * MIB)
    for (const node of nodes) assert.equal(await node.manager.holds(digest), false)
  })

  it('passes a blob through when the store has no room', async () => {
    const [small, big] = [await swarm.add({ quota: 2 * MIB }), await swarm.add()]
    const digest = swarm.upstream.add(12 * MIB)
    const alone = await pull(swarm, small!, digest)
    assert.equal(alone.local + alone.peers + alone.upstream >= 12 * MIB, true)
    await pull(swarm, big!, digest)
    await pull(swarm, small!, digest)
  })

  it('refetches a block that was lost from the disk of a complete blob', async () => {
    const [a, b] = [await swarm.add(), await swarm.add()]
    const digest = swarm.upstream.add(6 * MIB)
    await pull(swarm, a!, digest)
    await pull(swarm, b!, digest)
    await a!.store.dropSegment(digest, 2 * MIB)
    assert.equal(await a!.manager.holds(digest), false)
    const before = swarm.upstream.bytes
    assert.equal((await pull(swarm, a!, digest)).peers, BLOCK_SIZE)
    assert.equal(swarm.upstream.bytes, before)
    assert.equal(await a!.manager.holds(digest), true)
  })

  it('takes no more from upstream than its limit lets it', async () => {
    let asked = 0
    let open = (): void => {}
    const opened = new Promise<void>((resolve) => {
      open = resolve
    })
    const mayReceive = async (bytes: number): Promise<void> => {
      asked += bytes
      if (asked > MIB) await opened
    }
    const node = await swarm.add({ mayReceive })
    const digest = swarm.upstream.add(4 * MIB)
    const pulled = pull(swarm, node, digest)
    await until(() => asked > MIB)
    await new Promise((resolve) => setTimeout(resolve, 300))
    assert.ok(asked > MIB && swarm.upstream.bytes < 2 * MIB, `${swarm.upstream.bytes} came`)
    open()
    await pulled
  })

  it('stops what nobody waits for', async () => {
    const node = await swarm.add()
    const digest = swarm.upstream.add(64 * MIB)
    swarm.upstream.pace = 5
    const stop = new AbortController()
    const onBytes = (total: number): void => {
      if (total > MIB) stop.abort(new Error('client gone'))
    }
    await assert.rejects(pull(swarm, node, digest, { signal: stop.signal, onBytes }))
    let then = -1
    await until(() => {
      const before = then
      then = swarm.upstream.bytes
      return then === before
    }, 1000)
    assert.ok(then < 60 * MIB, `${then} came`)
  })

  it('shares hints with the neighbours', async () => {
    const nodes = await Promise.all(Array.from({ length: 5 }, () => swarm.add()))
    nodes[0]!.manager.hints.publish('tag/x', { digest: 'd1' })
    for (const node of nodes) {
      let found: Awaited<ReturnType<typeof node.manager.hints.lookup>> = []
      await until(async () => {
        found = await node.manager.hints.lookup('tag/x', AbortSignal.timeout(30_000))
        return found.length > 0
      })
      assert.deepEqual(found[0]?.value, { digest: 'd1' })
    }
  })
})
