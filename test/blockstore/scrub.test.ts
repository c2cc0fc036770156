import assert from 'node:assert/strict'
import { open, rm, truncate } from 'node:fs/promises'
import { test } from 'node:test'
import { BLOCK_SIZE, type Blob, type BlockStore, cidOf } from '../../blockstore/index.ts'
import { blobNamed, blockPath, bytesOf, filesIn, putBlob, scratch, storeIn } from './tools.ts'

const [A, B] = [blobNamed('a'), blobNamed('b')]
const FAST = Number.POSITIVE_INFINITY

async function scrub(store: BlockStore, signal = new AbortController().signal) {
  return store.scrub({ bytesPerSecond: FAST, signal })
}

test('a scrub finds what is flipped, cut short or missing, and tells of it once', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const cids = await putBlob(store, A, 6, 10_000)
  const shared = bytesOf(1, 10_000)
  const cid = await store.putSegment(B, { offset: 0 }, shared)
  await store.putSegment(A, { offset: 70_000 }, shared)
  await store.keep(B, [0])
  assert.deepEqual(await scrub(store), { blocks: 7, bytes: 70_000, bad: 0 })

  const [flipped = '', short = '', missing = ''] = cids
  // All are known as good in memory; the disk is what counts.
  for (const known of [...cids, cid]) await store.read(known)
  const file = await open(blockPath(dir, flipped), 'r+')
  await file.write(Buffer.from([1, 2, 3]), 0, 3, 5000)
  await file.close()
  await truncate(blockPath(dir, short), 9999)
  await rm(blockPath(dir, missing))
  await rm(blockPath(dir, cid))

  const dropped = new Map<string, number[]>()
  store.onDropped((digest, offsets) => dropped.set(digest, [...(dropped.get(digest) ?? []), ...offsets]))
  const damaged: [Blob, number[]][] = []
  store.onDamaged((blob, offsets) => damaged.push([blob, offsets]))
  const progress: number[] = []
  const done = await store.scrub({
    bytesPerSecond: FAST,
    signal: new AbortController().signal,
    onProgress: ({ bytes, total }) => progress.push(bytes / total),
  })
  assert.deepEqual(done, { blocks: 7, bytes: 70_000, bad: 4 })
  assert.equal(progress.length, 7)
  assert.equal(progress.at(-1), 1)
  assert.deepEqual(
    dropped.get(A)?.sort((a, b) => a - b),
    [0, 10_000, 20_000, 70_000],
  )
  assert.deepEqual(dropped.get(B), [0])
  assert.equal(damaged.length, 5)
  // What is told is what was known before: complete until the first loss, kept still.
  assert.deepEqual(damaged.filter(([blob]) => blob.digest === A && blob.complete).length, 1)
  assert.equal(damaged.find(([blob]) => blob.digest === B)?.[0].bytesKept, 10_000)
  assert.deepEqual(await store.kept(B), [0])
  assert.equal((await store.blob(B))?.bytesKept, 0)
  assert.deepEqual((await filesIn(dir)).sort(), cids.slice(3).sort())
  assert.deepEqual(await scrub(store), { blocks: 3, bytes: 30_000, bad: 0 })
})

test('blocks of every size are read to their end, and looking is not using', async (t) => {
  let time = 1
  const store = await storeIn(t, await scratch(t), { now: () => time++ })
  const sizes = [0, 1, 4095, 4096, 65_537, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE + 5]
  for (const [i, size] of sizes.entries()) {
    const bytes = bytesOf(i, size)
    const cid = await store.putSegment(A, { offset: i * 4 * BLOCK_SIZE }, bytes)
    assert.equal(cid, cidOf(bytes))
  }
  const before = await store.blob(A)
  assert.equal((await scrub(store)).bad, 0)
  assert.deepEqual(await store.blob(A), before)
})

test('a scrub keeps to its rate, and stops when it is told or the store closes', async (t) => {
  const store = await storeIn(t, await scratch(t))
  await putBlob(store, A, 10, 1000)
  const startedAt = performance.now()
  await store.scrub({ bytesPerSecond: 100_000, signal: new AbortController().signal })
  assert.ok(performance.now() - startedAt > 80)

  const stop = new AbortController()
  const slow = store.scrub({
    bytesPerSecond: 1,
    signal: stop.signal,
    onProgress: () => stop.abort(),
  })
  await assert.rejects(slow, { code: 'ABORTED' })
  await assert.rejects(scrub(store, AbortSignal.abort()), { code: 'ABORTED' })
  const closed = store.scrub({ bytesPerSecond: 1, signal: new AbortController().signal })
  const ended = assert.rejects(closed, { code: 'ABORTED' })
  await store.close()
  await ended
})

test('what is put, evicted and scrubbed at once is never taken for bad', async (t) => {
  const store = await storeIn(t, await scratch(t), { quota: 200_000 })
  let bad = 0
  store.onDamaged(() => bad++)
  let writing = true
  const writer = (async () => {
    for (let i = 0; i < 60; i++) await putBlob(store, blobNamed(`blob ${i}`), 10)
    writing = false
  })()
  while (writing) bad += (await scrub(store)).bad
  await writer
  assert.equal(bad, 0)
})
