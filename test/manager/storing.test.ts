import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import type { Digest } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { createSwarm, pull, type Swarm, type SwarmNode } from './swarm.ts'

const MIB = 2 ** 20

async function bytesOf(node: SwarmNode, digest: Digest): Promise<{ here: number; kept: number }> {
  const blob = await node.store.blob(digest)
  return { here: blob?.bytesHere ?? 0, kept: blob?.bytesKept ?? 0 }
}

async function until(what: string, test: () => Promise<boolean>, ms = 15_000): Promise<void> {
  for (const end = Date.now() + ms; !(await test()); ) {
    if (Date.now() > end) throw new Error(`not in time: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

describe('stored images', () => {
  let swarm: Swarm
  beforeEach(async () => {
    swarm = await createSwarm()
  })
  afterEach(() => swarm.close())

  /** Stores blobs of these sizes as one image through the node. */
  async function store(node: SwarmNode, copies: number, sizes: number[], name = 'a.example/app:1') {
    const blobs = sizes.map((size) => ({ digest: swarm.upstream.add(size), size }))
    await storeBlobs(node, copies, blobs, name)
    return blobs
  }

  async function storeBlobs(
    node: SwarmNode,
    copies: number,
    blobs: { digest: Digest; size: number }[],
    name = 'a.example/app:1',
  ) {
    await node.manager.storing.store(
      { name, digest: blobs[0]!.digest, copies, blobs },
      {
        origin: ({ digest }) => swarm.upstream.origin(node.id, digest),
        signal: AbortSignal.timeout(60_000),
      },
    )
  }

  const offered = async (nodes: SwarmNode[]): Promise<void> =>
    until('offers', async () => {
      for (const node of nodes) {
        let count = 0
        for await (const _ of node.manager.records.entries('offer/')) count++
        if (count < nodes.length) return false
      }
      return true
    })

  const state = async (node: SwarmNode, copies: number) =>
    (await node.manager.storing.list()).find((image) => image.copies === copies)

  /** Which of the blob's blocks a node keeps and has. */
  async function share(node: SwarmNode, digest: Digest): Promise<Set<number>> {
    const here = new Set((await node.store.segments(digest)).map((segment) => segment.offset))
    return new Set((await node.store.kept(digest)).filter((offset) => here.has(offset)))
  }

  async function shares(nodes: SwarmNode[], digests: Digest[]): Promise<Map<string, Set<string>>> {
    const all = new Map<string, Set<string>>()
    for (const node of nodes) {
      const own = new Set<string>()
      for (const digest of digests)
        for (const offset of await share(node, digest)) own.add(`${digest} ${offset}`)
      all.set(node.id, own)
    }
    return all
  }

  const repair = (node: SwarmNode, now = true) =>
    node.manager.storing.repair({ now, signal: AbortSignal.timeout(30_000) })

  const add = (count: number, options = {}): Promise<SwarmNode[]> =>
    Promise.all(Array.from({ length: count }, () => swarm.add(options)))

  it('have their lost copies made again, of the nodes that are left', async () => {
    const nodes = await add(4)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 2, [20 * MIB, 13 * MIB])
    await until('records', async () => (await state(nodes[3]!, 2)) !== undefined)
    swarm.upstream.up = false
    const had = (
      await shares(
        [nodes[1]!],
        blobs.map(({ digest }) => digest),
      )
    ).get('node1')!.size
    await swarm.kill(nodes[1]!)
    assert.equal((await state(nodes[0]!, 2))!.copiesNow, 1)
    const { copied, lost } = await repair(nodes[2]!)
    assert.ok(copied >= had && copied <= 1.5 * had, `${copied} copied for ${had}`)
    assert.equal(lost, 0)
    assert.equal((await state(nodes[0]!, 2))!.copiesNow, 2)
    await swarm.kill(nodes[3]!)
    for (const node of swarm.nodes) for (const { digest } of blobs) await pull(swarm, node, digest)
  })

  it('are left alone while a node is away for a short time, and when it comes back', async () => {
    const nodes = await add(4)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 2, [20 * MIB])
    const digests = blobs.map(({ digest }) => digest)
    await until('records', async () => (await state(nodes[3]!, 2)) !== undefined)
    const before = await shares(nodes, digests)
    swarm.cut(nodes[2]!, true)
    assert.deepEqual(await repair(nodes[0]!, false), { copied: 0, bytes: 0, lost: 0 })
    swarm.cut(nodes[2]!, false)
    assert.deepEqual(await repair(nodes[0]!, false), { copied: 0, bytes: 0, lost: 0 })
    assert.deepEqual(await shares(nodes, digests), before)
    // Also after its share was made again elsewhere.
    swarm.cut(nodes[2]!, true)
    assert.ok((await repair(nodes[0]!)).copied > 0)
    swarm.cut(nodes[2]!, false)
    assert.deepEqual(await repair(nodes[0]!, false), { copied: 0, bytes: 0, lost: 0 })
    assert.deepEqual(await shares(nodes, digests), before)
  })

  it('give a node that joins its part, and little else moves', async () => {
    const nodes = await add(8)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 2, [40 * MIB, 24 * MIB, 16 * MIB])
    const digests = blobs.map(({ digest }) => digest)
    const before = await shares(nodes, digests)
    const ninth = await swarm.add()
    nodes.push(ninth)
    await offered(nodes)
    await until('a share of the ninth', async () => {
      await repair(nodes[0]!, false)
      const after = await shares(nodes, digests)
      const total = [...after.values()].reduce((sum, own) => sum + own.size, 0)
      return (after.get(ninth.id)?.size ?? 0) > 0 && total === 160
    })
    const after = await shares(nodes, digests)
    let moved = 0
    for (const [id, own] of after) {
      for (const block of own) if (!before.get(id)?.has(block)) moved++
    }
    const must = after.get(ninth.id)!.size
    assert.ok(moved <= 1.3 * must, `${moved} moved for ${must}`)
    assert.equal((await state(nodes[0]!, 2))!.copiesNow, 2)
    assert.ok(Math.abs(must - 160 / 9) <= 0.15 * (160 / 9) + 1, `${must} of ${160 / 9}`)
  })

  it('are repaired at once when told so, even if nobody has noticed yet who died', async () => {
    const nodes = await add(4)
    await offered(nodes)
    await store(nodes[0]!, 2, [12 * MIB, 9 * MIB])
    swarm.upstream.up = false
    await swarm.kill(nodes[3]!, { unnoticed: true })
    const signal = AbortSignal.timeout(30_000)
    const { copied } = await nodes[0]!.manager.storing.repair({ now: true, signal })
    assert.ok(copied > 0)
    assert.equal((await state(nodes[0]!, 2))!.copiesNow, 2)
  })

  it('are pulled though a node that has a share is slow to say so', async () => {
    const nodes = await add(4)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 1, [16 * MIB])
    await until('records', async () => (await state(nodes[3]!, 1)) !== undefined)
    swarm.upstream.up = false
    const fifth = await swarm.add()
    await offered([fifth])
    await until('records', async () => (await state(fifth, 1)) !== undefined)
    for (const node of nodes) node.lag = 1200
    for (const { digest } of blobs) await pull(swarm, fifth, digest)
  })

  it('keep a block until its new holder has it', async () => {
    const nodes = await add(3)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 1, [24 * MIB])
    const digest = blobs[0]!.digest
    const before = await shares(nodes, [digest])
    for (const node of nodes) node.spoil = async (bytes) => bytes.fill(0)
    const fourth = await swarm.add()
    await offered([...nodes, fourth])
    await repair(nodes[0]!)
    assert.ok((await fourth.store.kept(digest)).length > 0, 'it tried')
    assert.deepEqual(await shares(nodes, [digest]), before)
    for (const node of nodes) node.spoil = undefined
    await until('its blocks', async () => {
      await repair(nodes[0]!)
      const after = await shares([...nodes, fourth], [digest])
      return after.get(fourth.id)!.size > 0 && [...after.values()].reduce((n, own) => n + own.size, 0) === 24
    })
    assert.equal((await state(nodes[0]!, 1))!.copiesNow, 1)
  })

  it('pass through a node that has less room than the image', async () => {
    const small = await swarm.add({ quota: 26 * MIB, offer: 2 * MIB })
    const others = await add(3, { offer: 64 * MIB })
    await offered([small, ...others])
    const blobs = await store(small, 1, [20 * MIB, 18 * MIB, 20 * MIB, 12 * MIB])
    assert.equal((await state(small, 1))!.copiesNow, 1)
    swarm.upstream.up = false
    for (const { digest } of blobs) await pull(swarm, others[0]!, digest)
  })

  it('have damaged blocks fetched again by the node that keeps them', async () => {
    const nodes = await add(3)
    await offered(nodes)
    const [blob] = await store(nodes[0]!, 2, [12 * MIB])
    const victim = nodes[1]!
    await until('records', async () => (await state(victim, 2)) !== undefined)
    const kept = await share(victim, blob!.digest)
    swarm.upstream.up = false
    await victim.store.dropSegment(blob!.digest, [...kept][0]!)
    assert.equal((await share(victim, blob!.digest)).size, kept.size - 1)
    await until('the block again', async () => (await share(victim, blob!.digest)).size === kept.size)
  })

  /** The blob's bytes in a file that is not the store's, which lies there from then on. */
  async function borrow(node: SwarmNode, digest: Digest): Promise<string> {
    const path = join(node.dir, `${digest.slice(7)}.foreign`)
    await writeFile(path, swarm.upstream.blobs.get(digest)!)
    assert.equal(await node.manager.borrow(digest, path, { signal: AbortSignal.timeout(10_000) }), true)
    return path
  }

  for (const how of ['says so', 'does not say so'] as const) {
    it(`lose nothing when all nodes have them in borrowed files, and whose they are removes them all and ${how}`, async () => {
      const nodes = await add(4)
      await offered(nodes)
      const [blob] = await store(nodes[0]!, 2, [16 * MIB])
      const { digest } = blob!
      await until('records', async () => (await state(nodes[3]!, 2)) !== undefined)
      const before = await shares(nodes, [digest])
      swarm.upstream.up = false
      const paths = await Promise.all(nodes.map((node) => borrow(node, digest)))
      assert.deepEqual(await shares(nodes, [digest]), before)
      for (const node of nodes) {
        const kept = before.get(node.id)!.size * MIB
        assert.deepEqual(await bytesOf(node, digest), { here: 16 * MIB, kept })
        const { bytes, borrowed } = node.store.usage()
        assert.deepEqual([bytes, borrowed], [kept, 16 * MIB - kept])
      }
      assert.deepEqual(await repair(nodes[0]!, false), { copied: 0, bytes: 0, lost: 0 })

      await Promise.all(paths.map((path) => rm(path)))
      await Promise.all(
        nodes.map(async ({ manager, store }) => {
          if (how === 'says so') return manager.giveBack(digest)
          for (const { cid } of await store.segments(digest)) await store.read(cid).catch(() => {})
        }),
      )
      assert.deepEqual(await shares(nodes, [digest]), before)
      for (const node of nodes) {
        const kept = before.get(node.id)!.size * MIB
        assert.deepEqual(await bytesOf(node, digest), { here: kept, kept })
      }
      assert.equal((await state(nodes[0]!, 2))!.copiesNow, 2)
      await swarm.kill(nodes[3]!)
      await pull(swarm, await swarm.add(), digest)
    })
  }

  it('are not said to be held by a node whose share finds no room beside the borrowed file', async () => {
    const nodes = await add(2, { quota: 4 * MIB })
    await offered(nodes)
    const size = 12 * MIB
    const digest = swarm.upstream.add(size)
    await borrow(nodes[0]!, digest)
    await assert.rejects(storeBlobs(nodes[0]!, 1, [{ digest, size }]), { code: 'STORE_FULL' })
    const { here, kept } = await bytesOf(nodes[0]!, digest)
    assert.equal(here, size)
    assert.ok(kept <= 4 * MIB)
    assert.deepEqual(await nodes[0]!.manager.storing.list(), [])
  })

  it('are stored out of a borrowed file, which stays as it is', async () => {
    const nodes = await add(3)
    await offered(nodes)
    const size = 12 * MIB
    const digest = swarm.upstream.add(size)
    await borrow(nodes[0]!, digest)
    await storeBlobs(nodes[0]!, 2, [{ digest, size }])
    assert.equal(swarm.upstream.bytes, 0)
    const { here, kept } = await bytesOf(nodes[0]!, digest)
    assert.equal(here, size)
    assert.ok(kept > 0 && kept < size)
    const { bytes, borrowed } = nodes[0]!.store.usage()
    assert.deepEqual([bytes, borrowed], [kept, size - kept])
    const known = (await state(nodes[0]!, 2))!
    assert.deepEqual([known.bytesHere, known.bytesKept, known.copiesNow >= 2], [size, kept, true])
    assert.deepEqual(await nodes[0]!.store.collect(undefined, { all: true }), { blobs: 0, bytes: 0 })
    assert.equal((await bytesOf(nodes[0]!, digest)).kept, kept)
  })

  it('can be given other copies, stored twice at no cost, and forgotten', async () => {
    const nodes = await add(4)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 1, [16 * MIB, 5 * MIB])
    const digests = blobs.map(({ digest }) => digest)
    const crossed = swarm.upstream.bytes
    await storeBlobs(nodes[1]!, 2, blobs)
    assert.equal((await state(nodes[1]!, 2))!.copiesNow, 2)
    assert.equal(swarm.upstream.bytes, crossed)
    await storeBlobs(nodes[2]!, 1, blobs)
    await until('a copy less', async () => {
      await repair(nodes[2]!)
      return [...(await shares(nodes, digests)).values()].reduce((sum, own) => sum + own.size, 0) === 21
    })
    assert.equal((await state(nodes[2]!, 1))!.copiesNow, 1)
    assert.equal(await nodes[3]!.manager.storing.forget('a.example/app:1'), true)
    assert.equal(await nodes[3]!.manager.storing.forget('a.example/app:1'), false)
    await until('marks', async () => {
      for (const node of nodes)
        for (const digest of digests) if ((await node.store.kept(digest)).length) return false
      return true
    })
  })

  it('say what went wrong: nowhere to be had, no room, too many copies', async () => {
    const nodes = await add(2)
    await offered(nodes)
    swarm.upstream.up = false
    await assert.rejects(store(nodes[0]!, 1, [MIB]), { code: 'UPSTREAM_UNREACHABLE' })
    const digest = swarm.upstream.add(MIB)
    const signal = AbortSignal.timeout(10_000)
    const image = { name: 'a.example/b:1', digest, copies: 1, blobs: [{ digest, size: MIB }] }
    await assert.rejects(nodes[0]!.manager.storing.store(image, { signal }), { code: 'NOT_FOUND' })
    await assert.rejects(nodes[0]!.manager.storing.store({ ...image, copies: 0 }, { signal }), {
      code: 'USAGE',
    })
    assert.deepEqual(await nodes[0]!.manager.storing.list(), [])
  })

  it('are not said to be stored where a node has no room for the copy that is wanted', async () => {
    const nodes = [...(await add(1)), await swarm.add({ quota: 5 * MIB, offer: 50 * MIB })]
    await offered(nodes)
    const blobs = [16, 7, 3].map((n) => ({ digest: swarm.upstream.add(n * MIB), size: n * MIB }))
    await assert.rejects(storeBlobs(nodes[0]!, 2, blobs), { code: 'STORE_FULL' })
    const next = await bytesOf(nodes[0]!, blobs[1]!.digest)
    assert.equal(next.here, next.kept)
    assert.deepEqual(await nodes[0]!.manager.storing.list(), [])
  })

  it('survive any two nodes at once where there are three copies', async () => {
    const nodes = await add(6)
    await offered(nodes)
    const blobs = await store(nodes[0]!, 3, [9 * MIB, 7 * MIB + 3, 900])
    await until('records', async () => {
      const known = await Promise.all(nodes.map((node) => state(node, 3)))
      return known.every((one) => one !== undefined)
    })
    swarm.upstream.up = false
    await Promise.all([swarm.kill(nodes[0]!), swarm.kill(nodes[4]!)])
    await Promise.all(
      swarm.nodes.map(async (node) => {
        for (const { digest } of blobs) await pull(swarm, node, digest)
      }),
    )
  })

  it('are spread in so many copies, each node with its share', async () => {
    const nodes = [await swarm.add(), await swarm.add(), await swarm.add(), await swarm.add()]
    await offered(nodes)
    for (const copies of [1, 2]) {
      const blobs = await store(nodes[0]!, copies, [24 * MIB, 700, 16 * MIB + 5], `a.example/app:${copies}`)
      const total = blobs.reduce((sum, blob) => sum + blob.size, 0)
      for (const node of nodes) {
        let kept = 0
        for (const { digest } of blobs) {
          const bytes = await bytesOf(node, digest)
          assert.equal(bytes.here, bytes.kept, 'only the share is left on the disk')
          kept += bytes.kept
        }
        const fair = (copies * total) / 4
        assert.ok(Math.abs(kept - fair) <= Math.max(0.35 * fair, BLOCK_SIZE), `${kept} of ${fair}`)
      }
      await until('the record on all nodes', async () => (await state(nodes[1]!, copies)) !== undefined)
      const known = (await state(nodes[1]!, copies))!
      assert.equal(known.copiesNow, copies)
      assert.equal(known.startable, true)
      assert.equal(known.bytesInSite, copies * total)
      assert.equal(known.size, total)
    }
  })

  it('can be pulled by every node with the uplink cut and one node lost', async () => {
    const nodes = [await swarm.add(), await swarm.add(), await swarm.add(), await swarm.add()]
    await offered(nodes)
    const blobs = await store(nodes[0]!, 2, [12 * MIB, 9 * MIB + 1])
    swarm.upstream.up = false
    await swarm.kill(nodes[1]!)
    for (const node of swarm.nodes) {
      for (const { digest } of blobs) await pull(swarm, node, digest)
    }
  })
})
