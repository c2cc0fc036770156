import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { statfsSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { BlockStore } from '../../blockstore/index.ts'
import { all, blobNamed, blockPath, filesIn, putBlob, scratch, storeIn } from './tools.ts'

const [A, B, C] = [blobNamed('a'), blobNamed('b'), blobNamed('c')]

async function offsets(store: BlockStore, digest = A): Promise<number[]> {
  return (await store.segments(digest)).map(({ offset }) => offset)
}

test('eviction takes what is not kept of a blob and leaves its record and its share', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir, { quota: 10_000 })
  await putBlob(store, A, 8)
  await store.keep(A, [1000, 5000, 20_000])
  const heard: number[][] = []
  store.onDropped((digest, lost) => digest === A && heard.push(lost))
  await store.putSegment(B, { offset: 0 }, randomBytes(3000))
  assert.deepEqual(await offsets(store), [1000, 5000])
  assert.deepEqual(heard, [[0, 2000, 3000, 4000, 6000, 7000]])
  const { usedAt: _, ...blob } = (await store.blob(A)) ?? { usedAt: 0 }
  assert.deepEqual(blob, {
    digest: A,
    size: 8000,
    mediaType: undefined,
    complete: false,
    pinned: false,
    bytesHere: 2000,
    bytesKept: 2000,
    borrowedFrom: undefined,
    mayMove: true,
  })
  // What is kept counts towards the quota and is never given up for it.
  await assert.rejects(store.putSegment(C, { offset: 0 }, randomBytes(9000)), { code: 'STORE_FULL' })
  assert.deepEqual(await offsets(store), [1000, 5000])
  assert.equal((await filesIn(dir)).length, store.usage().blocks)
})

test('a mark waits for its block, survives restarts and crashes, and goes with the set that replaces it', async (t) => {
  const dir = await scratch(t)
  let store = await storeIn(t, dir)
  await store.keep(A, [2000, 0])
  assert.deepEqual(await store.kept(A), [0, 2000])
  assert.deepEqual(await all(store.keptBlobs()), [A])
  await putBlob(store, A, 3)
  assert.equal((await store.blob(A))?.bytesKept, 2000)
  for (const crash of [false, true]) {
    await store.close()
    if (crash) await rm(`${dir}/clean.json`)
    store = await storeIn(t, dir)
    assert.deepEqual(await store.kept(A), [0, 2000])
    assert.equal((await store.blob(A))?.bytesKept, 2000)
  }
  await store.keep(A, [1000])
  assert.deepEqual(await store.kept(A), [1000])
  await store.dropSegment(A, 1000)
  assert.equal((await store.blob(A))?.bytesKept, 0)
  await store.putSegment(A, { offset: 1000 }, randomBytes(900))
  assert.equal((await store.blob(A))?.bytesKept, 900)
  await store.putSegment(A, { offset: 1000 }, randomBytes(800))
  assert.equal((await store.blob(A))?.bytesKept, 800)
  await store.keep(A, [])
  assert.deepEqual([await store.kept(A), await all(store.keptBlobs())], [[], []])
  assert.equal((await store.blob(A))?.bytesHere, 2800)
  await assert.rejects(store.keep(A, [0, -1]), { code: 'RANGE_INVALID' })
  // Nothing is left of a blob that only had marks.
  await store.keep(B, [0])
  await store.keep(B, [])
  assert.equal(await store.blob(B), undefined)
})

test('trim leaves what is kept, and nothing where nothing is; it spares what is pinned or held', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  // More than goes in one turn, so that what is kept has to be passed by.
  const marks = Array.from({ length: 300 }, (_, i) => i * 200)
  await putBlob(store, A, 600, 100)
  await store.keep(A, marks)
  const release = store.hold(A)
  assert.equal(await store.trim(A), 0)
  release()
  await store.pin(A, true)
  assert.equal(await store.trim(A), 0)
  await store.pin(A, false)
  assert.equal(await store.trim(A), 30_000)
  assert.deepEqual(await offsets(store), marks)
  assert.equal(await store.trim(A), 0)
  assert.equal((await filesIn(dir)).length, 300)
  await putBlob(store, B, 2)
  assert.equal(await store.trim(B), 2000)
  assert.equal(await store.blob(B), undefined)
  assert.equal(await store.trim(C), 0)
  // A blob that is removed takes its marks along.
  await store.remove(A)
  assert.deepEqual([await store.kept(A), await store.blob(A)], [[], undefined])
  await putBlob(store, A, 1)
  assert.equal((await store.blob(A))?.bytesKept, 0)
  assert.equal(store.usage().bytes, 1000)
})

test('a block that is kept for one blob stays when another that shares it is evicted', async (t) => {
  const store = await storeIn(t, await scratch(t))
  const shared = randomBytes(1000)
  const cid = await store.putSegment(A, { offset: 0 }, shared)
  await store.putSegment(B, { offset: 0 }, shared)
  await store.keep(A, [0])
  assert.deepEqual(await store.collect(undefined, { all: true }), { blobs: 1, bytes: 0 })
  assert.deepEqual(await store.read(cid), shared)
  assert.equal(await store.blob(B), undefined)
})

test('collect goes down to the low watermark that was set; all takes whatever may go', async (t) => {
  let time = 1
  const store = await storeIn(t, await scratch(t), { quota: 10_000, quotaLow: 0.5, now: () => time++ })
  await putBlob(store, A, 4)
  await putBlob(store, B, 4)
  await store.pin(B, true)
  await store.keep(A, [0])
  assert.deepEqual(await store.collect(), { blobs: 1, bytes: 3000 })
  await store.pin(B, false)
  assert.deepEqual(await store.collect(undefined, { all: true }), { blobs: 1, bytes: 4000 })
  assert.deepEqual(await offsets(store), [0])
  assert.deepEqual(await store.collect(undefined, { all: true }), { blobs: 0, bytes: 0 })
})

test('a floor of free disk space makes cache go, and is STORE_FULL where nothing may', async (t) => {
  const dir = await scratch(t)
  let store = await storeIn(t, dir)
  await putBlob(store, A, 4)
  await putBlob(store, B, 4)
  await store.keep(A, [3000])
  await store.close()
  const { bavail, bsize } = statfsSync(dir)
  // More than the disk has: whatever is cache goes, and then it is full.
  store = await storeIn(t, dir, { minFree: 2 * bavail * bsize })
  assert.deepEqual(await store.collect(), { blobs: 2, bytes: 7000 })
  await assert.rejects(store.putSegment(C, { offset: 0 }, randomBytes(10)), {
    code: 'STORE_FULL',
    message: /free/,
  })
  assert.deepEqual(await offsets(store), [3000])
  await store.close()
  // Seen without anybody asking, too.
  store = await storeIn(t, dir)
  await putBlob(store, B, 4)
  await store.close()
  store = await storeIn(t, dir, { minFree: 2 * bavail * bsize, flushMs: 20 })
  while (store.usage().bytes > 1000) await new Promise((resolve) => setTimeout(resolve, 10))
  await store.close()
  store = await storeIn(t, dir, { minFree: 1 })
  await putBlob(store, B, 4)
  assert.deepEqual(await store.collect(), { blobs: 0, bytes: 0 })
})

test('a repaired index keeps marks whose records it lost', async (t) => {
  const dir = await scratch(t)
  let store = await storeIn(t, dir)
  const [cid = ''] = await putBlob(store, A, 2)
  await store.keep(A, [0, 7000])
  await store.close()
  await writeFile(`${dir}/index/CURRENT`, 'MANIFEST-999999\n')
  await rm(blockPath(dir, cid))
  store = await storeIn(t, dir)
  assert.deepEqual(await store.kept(A), [0, 7000])
  assert.equal((await store.blob(A))?.bytesKept, 0)
  await store.putSegment(A, { offset: 7000 }, randomBytes(10))
  assert.equal((await store.blob(A))?.bytesKept, 10)
})
