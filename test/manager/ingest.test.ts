import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { describe, test } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import { createSwarm, type Swarm, type SwarmNode } from './swarm.ts'

const MiB = 2 ** 20
const signal = (): AbortSignal => AbortSignal.timeout(20_000)

async function* inChunks(bytes: Buffer, size = 100_000): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

function ingest(node: SwarmNode, bytes: Buffer, digest = digestOf(bytes), size = bytes.length) {
  return node.manager.ingest({ digest, size, chunks: () => inChunks(bytes), signal: signal() })
}

/** Reads a blob that has no upstream, from the site or other sites. */
async function read(node: SwarmNode, digest: Digest, size?: number): Promise<Buffer> {
  const origin = node.manager.elsewhere(digest)
  const blob = await node.manager.open({
    digest,
    origin,
    ...(size === undefined ? {} : { size }),
    priority: 'client',
    signal: signal(),
  })
  try {
    const parts: Buffer[] = []
    for await (const chunk of blob.read({ start: 0, end: undefined }, signal()))
      parts.push(Buffer.from(chunk))
    return Buffer.concat(parts)
  } finally {
    blob.close()
  }
}

async function swarm(t: { after(done: () => Promise<void>): void }): Promise<Swarm> {
  const made = await createSwarm()
  t.after(() => made.close())
  return made
}

describe('a blob that a client brought', () => {
  test('is whole here and pulled by neighbours at once', async (t) => {
    const site = await swarm(t)
    const [a, b] = [await site.add(), await site.add()]
    for (const size of [0, 1, MiB, 3 * MiB + 17]) {
      const bytes = randomBytes(size)
      assert.equal(await ingest(a, bytes), true)
      assert.equal(await a.manager.holds(digestOf(bytes)), true)
      assert.equal(await ingest(a, bytes), false)
      assert.deepEqual(await read(b, digestOf(bytes), size), bytes, `${size} bytes`)
    }
  })

  test('of another digest or size is taken out again; what was here before stays', async (t) => {
    const site = await swarm(t)
    const a = await site.add()
    const bytes = randomBytes(2 * MiB)
    const other = digestOf(randomBytes(10))
    await assert.rejects(ingest(a, bytes, other), { code: 'DIGEST_MISMATCH' })
    await assert.rejects(ingest(a, bytes, digestOf(bytes), bytes.length + 1), { code: 'DIGEST_MISMATCH' })
    assert.equal(a.store.usage().blocks, 0)
    await a.store.putSegment(digestOf(bytes), { offset: 0 }, bytes.subarray(0, MiB))
    assert.equal(await ingest(a, bytes), true)
    async function* broken(): AsyncGenerator<Buffer> {
      yield bytes.subarray(0, MiB)
      throw new Error('the file went')
    }
    const half = { digest: other, size: 5, chunks: broken, signal: signal() }
    await assert.rejects(a.manager.ingest(half), /the file went/)
    assert.equal((await a.store.segments(other)).length, 0)
    assert.deepEqual(await read(a, digestOf(bytes)), bytes)
  })
})

describe('a blob of which something else is here', () => {
  test('does not count blocks that another, wrong body left', async (t) => {
    const site = await swarm(t)
    const a = await site.add()
    const bytes = randomBytes(2 * MiB + 5)
    const digest = digestOf(bytes)
    const begun = Promise.withResolvers<void>()
    const gate = Promise.withResolvers<void>()
    async function* wrong(): AsyncGenerator<Buffer> {
      yield randomBytes(MiB + 1)
      begun.resolve()
      await gate.promise
      yield randomBytes(MiB + 4)
    }
    const hostile = a.manager.ingest({ digest, size: bytes.length, chunks: wrong, signal: signal() })
    await begun.promise
    const honest = ingest(a, bytes)
    await new Promise((resolve) => setTimeout(resolve, 300))
    gate.resolve()
    await assert.rejects(hostile, { code: 'DIGEST_MISMATCH' })
    assert.equal(await honest, true)
    assert.equal(await a.manager.holds(digest), true)
    assert.deepEqual(await read(a, digest), bytes)
  })

  test('has a block replaced that a task brought and did not verify', async (t) => {
    const site = await swarm(t)
    const [a, b] = [await site.add(), await site.add()]
    const bytes = randomBytes(2 * MiB)
    const digest = digestOf(bytes)
    const wrong = randomBytes(MiB)
    // Signed like a block from upstream, by way of another blob.
    const other = digestOf(wrong)
    await ingest(a, wrong)
    const [segment] = await a.store.segments(other)
    const { seeder, signature } = segment!
    await a.store.putSegment(digest, { offset: 0, seeder: seeder!, signature: signature! }, wrong)
    assert.equal(await ingest(a, bytes), true)
    assert.deepEqual(await read(b, digest), bytes)
  })
})

describe('a blob that only other sites have', () => {
  test('comes from them, the parts from whoever has them', async (t) => {
    const cluster = await swarm(t)
    const far = [await cluster.add({ site: 'far' }), await cluster.add({ site: 'far' })]
    const near = [await cluster.add(), await cluster.add()]
    const bytes = randomBytes(4 * MiB + 5)
    const digest = digestOf(bytes)
    for (const node of far) await ingest(node, bytes)
    // Each has lost what the other still has.
    await far[0]!.store.dropSegment(digest, 0)
    await far[1]!.store.dropSegment(digest, 2 * MiB)
    assert.deepEqual(await read(near[0]!, digest), bytes)
    assert.deepEqual(await read(near[1]!, digest), bytes)
  })

  test('comes whole though one of them sends rubbish', async (t) => {
    const cluster = await swarm(t)
    const far = [await cluster.add({ site: 'far' }), await cluster.add({ site: 'far' })]
    const near = await cluster.add()
    const bytes = randomBytes(2 * MiB)
    for (const node of far) await ingest(node, bytes)
    far[0]!.spoil = async (block) => block.fill(0)
    assert.deepEqual(await read(near, digestOf(bytes)), bytes)
  })

  test('cannot be had where nobody has all of it', async (t) => {
    const cluster = await swarm(t)
    const far = await cluster.add({ site: 'far' })
    const near = await cluster.add()
    const bytes = randomBytes(2 * MiB)
    await ingest(far, bytes)
    await far.store.dropSegment(digestOf(bytes), 0)
    await assert.rejects(read(near, digestOf(bytes)), { code: 'UPSTREAM_UNREACHABLE' })
    await assert.rejects(read(near, digestOf(randomBytes(3))), { code: 'UPSTREAM_UNREACHABLE' })
  })
})
