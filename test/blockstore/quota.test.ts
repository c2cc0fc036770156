import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { type BlockStore, cidOf } from '../../blockstore/index.ts'
import { all, blobNamed, filesIn, putBlob, scratch, stagedIn, storeIn } from './tools.ts'

const [A, B, C, D] = [blobNamed('a'), blobNamed('b'), blobNamed('c'), blobNamed('d')]

/** A clock that moves on at every look, so that no two uses are at once. */
function clock(): () => number {
  let time = 1_700_000_000_000
  return () => time++
}

async function names(store: BlockStore): Promise<string[]> {
  return (await all(store.blobs())).map(({ digest }) => digest).sort()
}

test('over quota, whole blobs go, the least recently used first, down to the low watermark', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir, { quota: 10_000, now: clock() })
  const [cid = ''] = await putBlob(store, A, 3)
  await putBlob(store, B, 3)
  await putBlob(store, C, 4)
  assert.equal(store.usage().bytes, 10_000)
  // A was read after B was put: B has been unused for longest.
  await store.read(cid)
  const heard: string[] = []
  store.onDropped((digest) => heard.push(digest))
  await store.putSegment(D, { offset: 0 }, randomBytes(1000))
  assert.deepEqual(heard, [B])
  assert.deepEqual(await names(store), [A, C, D].sort())
  assert.deepEqual(store.usage(), { bytes: 8000, blocks: 8, borrowed: 0, quota: 10_000 })
  assert.equal((await filesIn(dir)).length, 8)
  assert.deepEqual(await store.segments(B), [])
})

test('what is held or pinned stays, and a put that finds no room says so and leaves nothing', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir, { quota: 10_000, now: clock() })
  const release = store.hold(A)
  const releaseToo = store.hold(A)
  await putBlob(store, A, 4)
  await putBlob(store, B, 4)
  await store.pin(B, true)
  await putBlob(store, C, 2)
  await putBlob(store, D, 2)
  assert.deepEqual(await names(store), [A, B, D].sort())
  const noRoom = async (): Promise<void> =>
    assert.rejects(store.putSegment(blobNamed('e'), { offset: 0 }, randomBytes(3000)), {
      code: 'STORE_FULL',
      message: /quota/,
    })
  await noRoom()
  assert.deepEqual(await names(store), [A, B].sort())
  await assert.rejects(store.putSegment(A, { offset: 4000 }, randomBytes(10_001)), { code: 'STORE_FULL' })
  // A hold ends with the last of its holders, and only once each.
  release()
  release()
  await noRoom()
  releaseToo()
  await store.putSegment(C, { offset: 0 }, randomBytes(3000))
  assert.deepEqual(await names(store), [B, C].sort())
  await store.pin(B, false)
  await store.putSegment(C, { offset: 3000 }, randomBytes(7000))
  assert.deepEqual(await names(store), [C])
  assert.deepEqual(await stagedIn(dir), [])
  assert.equal((await filesIn(dir)).length, 2)
  assert.equal(store.usage().bytes, 10_000)
})

test('a shared block stays for the blob that is left', async (t) => {
  const store = await storeIn(t, await scratch(t), { quota: 10_000, now: clock() })
  const shared = randomBytes(4000)
  const cid = await store.putSegment(A, { offset: 0 }, shared)
  await store.putSegment(A, { offset: 4000 }, randomBytes(3000))
  const release = store.hold(B)
  await store.putSegment(B, { offset: 0, expect: cid }, shared)
  await store.putSegment(C, { offset: 0 }, randomBytes(5000))
  assert.deepEqual(await names(store), [B, C].sort())
  assert.deepEqual(await store.read(cid), shared)
  assert.deepEqual(store.usage(), { bytes: 9000, blocks: 2, borrowed: 0, quota: 10_000 })
  release()
})

test('many puts at once never take more than the quota', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir, { quota: 100_000 })
  const results = await Promise.allSettled(
    Array.from({ length: 120 }, (_, i) =>
      store.putSegment(blobNamed(`blob ${i >> 3}`), { offset: i * 3000 }, randomBytes(3000)).then(() => {
        assert.ok(store.usage().bytes <= 100_000)
      }),
    ),
  )
  for (const result of results)
    if (result.status === 'rejected') assert.equal(result.reason.code, 'STORE_FULL')
  const { bytes, blocks } = store.usage()
  assert.ok(bytes <= 100_000 && bytes > 50_000, `${bytes}`)
  assert.equal((await filesIn(dir)).length, blocks)
  let here = 0
  for await (const blob of store.blobs()) here += blob.bytesHere
  assert.equal(here, bytes)
})

test('a hold that comes in the middle of an eviction stops it, and what it then sees stays', async (t) => {
  // The eviction of a blob of many blocks takes several turns; the hold comes after some of them.
  const store = await storeIn(t, await scratch(t), { quota: 40_000, now: clock() })
  await putBlob(store, A, 400, 100)
  let release: (() => void) | undefined
  store.onDropped((digest) => {
    if (digest === A) release ??= store.hold(A)
  })
  await assert.rejects(store.putSegment(B, { offset: 0 }, randomBytes(39_000)), { code: 'STORE_FULL' })
  const segments = await store.segments(A)
  assert.ok(segments.length > 0 && segments.length < 400, `${segments.length}`)
  for (const { cid } of segments) await store.read(cid)
  const blob = await store.blob(A)
  assert.equal(blob?.complete, false)
  assert.equal(blob.bytesHere, segments.length * 100)
  assert.equal(store.usage().bytes, segments.length * 100)
  release?.()
})

test('the order of use survives a restart; a smaller quota is met by collect', async (t) => {
  const dir = await scratch(t)
  const now = clock()
  let store = await storeIn(t, dir, { quota: 10_000, now })
  await putBlob(store, A, 3)
  await putBlob(store, B, 3)
  await putBlob(store, C, 3)
  store.hold(A)()
  assert.deepEqual(await store.collect(), { blobs: 0, bytes: 0 })
  await store.close()
  store = await storeIn(t, dir, { quota: 4000, now })
  assert.equal(store.usage().bytes, 9000)
  assert.deepEqual(await store.collect(), { blobs: 2, bytes: 6000 })
  assert.deepEqual(await names(store), [A])
  await assert.rejects(
    store.collect(AbortSignal.abort()).then(() => putBlob(store, D, 9)),
    { code: 'STORE_FULL' },
  )
})

test('a read in the middle of evictions gets its bytes or hears that they are gone', async (t) => {
  const store = await storeIn(t, await scratch(t), { quota: 50_000 })
  const cids: string[] = []
  let writing = true
  const writer = (async () => {
    for (let i = 0; i < 40; i++) cids.push(...(await putBlob(store, blobNamed(`blob ${i}`), 5)))
    writing = false
  })()
  const reader = (async () => {
    while (writing) {
      await new Promise(setImmediate)
      const cid = cids[Math.floor(Math.random() * cids.length)]
      if (cid === undefined) continue
      await store.read(cid).then(
        (bytes) => assert.equal(cidOf(bytes), cid),
        (error) => assert.equal(error.code, 'BLOCK_MISSING'),
      )
    }
  })()
  await Promise.all([writer, reader])
  const last = cids.at(-1) ?? ''
  assert.equal(cidOf(await store.read(last)), last)
})
