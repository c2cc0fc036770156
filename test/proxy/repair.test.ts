import assert from 'node:assert/strict'
import { truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { type Digest, silentLog } from '../../base/index.ts'
import { createRepair, type Repair } from '../../proxy/repair.ts'
import { createSwarm, pull, type Swarm, type SwarmNode } from '../manager/swarm.ts'

const MIB = 2 ** 20

describe('repair of what a bad disk lost', () => {
  let swarm: Swarm
  const repairs: Repair[] = []
  const warned: unknown[] = []
  beforeEach(async () => {
    swarm = await createSwarm()
    warned.length = 0
  })
  afterEach(async () => {
    for (const repair of repairs.splice(0)) await repair.close()
    await swarm.close()
  })

  /** A node that repairs; `known`: some repository is known to have every blob. */
  async function mended(known = false): Promise<{ node: SwarmNode; repair: Repair }> {
    const node = await swarm.add()
    const repair = createRepair({
      store: node.store,
      manager: node.manager,
      upstream: { origin: (_ref, _kind, digest) => swarm.upstream.origin(node.id, digest as Digest) },
      images: {
        placeOf: async () =>
          known ? { ref: { host: 'registry.test', repository: 'app' }, kind: 'blobs' } : undefined,
      },
      log: { ...silentLog(), warn: (fields) => warned.push(fields) },
    })
    repairs.push(repair)
    return { node, repair }
  }

  /** Cuts the blob's first block short and reads it, so that it is dropped. */
  async function damage(node: SwarmNode, digest: Digest): Promise<void> {
    const cid = (await node.store.segments(digest))[0]?.cid ?? ''
    await truncate(join(node.dir, 'blocks', cid.slice(-1), cid), 5)
    await assert.rejects(node.store.read(cid), { code: 'BLOCK_CORRUPT' })
  }

  async function until(done: () => unknown): Promise<void> {
    while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 20))
  }

  const whole = async (node: SwarmNode, digest: Digest): Promise<boolean> =>
    (await node.store.blob(digest))?.complete === true

  test('a neighbour has it, though the uplink is cut and no repository is known', async () => {
    const other = await swarm.add()
    const { node } = await mended()
    const digest = swarm.upstream.add(3 * MIB)
    await pull(swarm, other, digest)
    await pull(swarm, node, digest)
    swarm.upstream.up = false
    await damage(node, digest)
    await until(() => whole(node, digest))
    assert.deepEqual(warned, [])
  })

  test('upstream has it where nobody else does', async () => {
    const { node } = await mended(true)
    const digest = swarm.upstream.add(3 * MIB)
    await pull(swarm, node, digest)
    await damage(node, digest)
    await until(() => whole(node, digest))
    assert.equal(swarm.upstream.bytes, 4 * MIB)
  })

  test('what cannot be had is logged, and a pull that comes later gets it', async () => {
    const { node } = await mended()
    const digest = swarm.upstream.add(2 * MIB)
    await pull(swarm, node, digest)
    await damage(node, digest)
    await until(() => warned.length > 0)
    assert.equal(await whole(node, digest), false)
    // The coordinator believes for a second or two that upstream is out of reach.
    await until(() =>
      pull(swarm, node, digest).then(
        () => true,
        () => false,
      ),
    )
    assert.equal(await whole(node, digest), true)
  })

  test('what was here in parts only is let go, unless it is pinned', async () => {
    const { node } = await mended(true)
    const digest = swarm.upstream.add(3 * MIB)
    await pull(swarm, node, digest)
    await node.store.dropSegment(digest, 2 * MIB)
    await damage(node, digest)
    await new Promise((resolve) => setTimeout(resolve, 100))
    assert.equal((await node.store.blob(digest))?.bytesHere, MIB)
    await node.store.pin(digest, true)
    await damage(node, digest)
    await until(() => whole(node, digest))
  })

  test('closing ends what is under way', async () => {
    const { node, repair } = await mended(true)
    const digest = swarm.upstream.add(3 * MIB)
    await pull(swarm, node, digest)
    swarm.upstream.pace = 1000
    await damage(node, digest)
    await repair.close()
    repair.want(digest)
    assert.deepEqual(warned, [])
  })
})
