import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { BLOCK_SIZE, cidOf } from '../../blockstore/index.ts'
import { all, blobNamed, bytesOf, filesIn, putBlob, scratch, stagedIn, storeIn } from './tools.ts'

const A = blobNamed('a')
const B = blobNamed('b')

test('what is put is read back, and is there after a restart', async (t) => {
  const dir = await scratch(t)
  let store = await storeIn(t, dir)
  const first = randomBytes(BLOCK_SIZE)
  const last = randomBytes(17)
  const signature = randomBytes(64)
  const cid = await store.putSegment(A, { offset: 0, seeder: 'peer', signature }, first)
  await store.putSegment(A, { offset: BLOCK_SIZE, expect: cidOf(last) }, last)
  assert.equal(cid, cidOf(first))
  await store.describe(A, { size: first.length + last.length, mediaType: 'application/x' })
  await store.markComplete(A)
  await store.pin(A, true)

  const check = async (): Promise<void> => {
    assert.deepEqual(await store.read(cid), first)
    assert.deepEqual(await store.read(cidOf(last)), last)
    assert.equal(await store.has(cid), true)
    assert.deepEqual(await store.segments(A), [
      { cid, offset: 0, length: first.length, seeder: 'peer', signature: Uint8Array.from(signature) },
      { cid: cidOf(last), offset: BLOCK_SIZE, length: last.length },
    ])
    const { usedAt, ...blob } = (await store.blob(A)) ?? assert.fail('no blob')
    assert.ok(Math.abs(Date.now() - usedAt) < 60_000)
    assert.deepEqual(blob, {
      digest: A,
      size: first.length + last.length,
      mediaType: 'application/x',
      complete: true,
      pinned: true,
      bytesHere: first.length + last.length,
      bytesKept: 0,
      borrowedFrom: undefined,
      mayMove: true,
    })
    assert.deepEqual(store.usage(), {
      bytes: first.length + last.length,
      blocks: 2,
      borrowed: 0,
      quota: undefined,
    })
    assert.deepEqual(await stagedIn(dir), [])
  }
  await check()
  await store.close()
  store = await storeIn(t, dir)
  await check()
  assert.deepEqual(
    (await all(store.blobs())).map((blob) => blob.digest),
    [A],
  )
})

test('a read uses the buffer it is given, if that is large enough', async (t) => {
  const store = await storeIn(t, await scratch(t))
  const bytes = bytesOf(1, 5000)
  const cid = await store.putSegment(A, { offset: 0 }, bytes)
  const into = Buffer.alloc(6000)
  for (let i = 0; i < 2; i++) {
    const read = await store.read(cid, { into })
    assert.equal(read.buffer, into.buffer)
    assert.deepEqual(read, bytes)
  }
  const small = Buffer.alloc(4999)
  assert.deepEqual(await store.read(cid, { into: small }), bytes)
  assert.deepEqual(small, Buffer.alloc(4999))
})

test('other bytes than expected are refused and leave nothing', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  for (const length of [100, BLOCK_SIZE]) {
    const expect = cidOf(bytesOf(1, length))
    await assert.rejects(store.putSegment(A, { offset: 0, expect }, bytesOf(2, length)), {
      code: 'BLOCK_MISMATCH',
    })
    await assert.rejects(store.putSegment(A, { offset: 0, expect: '../../x' }, bytesOf(2)), {
      code: 'BLOCK_MISMATCH',
    })
  }
  // Not even where the expected block is here already.
  const expect = await store.putSegment(A, { offset: 0 }, bytesOf(1))
  await assert.rejects(store.putSegment(B, { offset: 0, expect }, bytesOf(2)), { code: 'BLOCK_MISMATCH' })
  assert.equal(await store.blob(B), undefined)
  assert.deepEqual(await filesIn(dir), [expect])
  assert.deepEqual(await stagedIn(dir), [])
  await assert.rejects(store.putSegment(A, { offset: -1 }, bytesOf(1)), { code: 'RANGE_INVALID' })
  await assert.rejects(store.putSegment(A, { offset: 0.5 }, bytesOf(1)), { code: 'RANGE_INVALID' })
})

test('what is not here is said to be missing', async (t) => {
  const store = await storeIn(t, await scratch(t))
  await assert.rejects(store.read(cidOf(bytesOf(1))), { code: 'BLOCK_MISSING' })
  await assert.rejects(store.read('../../../etc/passwd'), { code: 'BLOCK_MISSING' })
  assert.equal(await store.has(cidOf(bytesOf(1))), false)
  assert.equal(await store.blob(A), undefined)
  assert.deepEqual(await store.segments(A), [])
  await store.dropSegment(A, 0)
  await store.remove(A)
  await store.pin(A, false)
  assert.equal(await store.blob(A), undefined)
  await assert.rejects(store.markComplete(A), { code: 'BLOCK_MISSING' })
})

test('a block that several segments share goes with the last of them', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const bytes = bytesOf(1)
  const cid = await store.putSegment(A, { offset: 0 }, bytes)
  await store.putSegment(A, { offset: 1000 }, bytes)
  await store.putSegment(B, { offset: 7000, expect: cid }, bytes)
  assert.deepEqual(store.usage(), { bytes: 1000, blocks: 1, borrowed: 0, quota: undefined })
  assert.equal((await store.blob(A))?.bytesHere, 2000)

  await store.dropSegment(A, 0)
  assert.deepEqual(await store.read(cid), bytes)
  assert.deepEqual(await store.segments(A), [{ cid, offset: 1000, length: 1000 }])
  await store.remove(A)
  assert.equal(await store.blob(A), undefined)
  assert.deepEqual(await store.read(cid), bytes)
  await store.dropSegment(B, 7000)
  await assert.rejects(store.read(cid), { code: 'BLOCK_MISSING' })
  assert.deepEqual(await filesIn(dir), [])
  assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: 0, quota: undefined })
  assert.equal((await store.blob(B))?.bytesHere, 0)
})

test('another block at the same place replaces the one before', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const old = await store.putSegment(A, { offset: 0 }, bytesOf(1))
  await store.describe(A, { size: 1000 })
  await store.markComplete(A)
  const cid = await store.putSegment(A, { offset: 0 }, bytesOf(2, 900))
  assert.deepEqual(await store.segments(A), [{ cid, offset: 0, length: 900 }])
  assert.equal(await store.has(old), false)
  assert.deepEqual(await filesIn(dir), [cid])
  const blob = await store.blob(A)
  assert.equal(blob?.complete, false)
  assert.equal(blob.bytesHere, 900)
})

test('a seeder signs once the CID is known, and the signature stays when the segment is put again', async (t) => {
  const store = await storeIn(t, await scratch(t))
  const signature = Uint8Array.from(randomBytes(64))
  const sign = () => ({ seeder: 'peer', signature })
  const cid = await store.putSegment(A, { offset: 0, sign }, bytesOf(1))
  await store.putSegment(A, { offset: 0, expect: cid }, bytesOf(1))
  assert.deepEqual(await store.segments(A), [{ cid, offset: 0, length: 1000, seeder: 'peer', signature }])
})

test('a blob is complete only while all of it is here', async (t) => {
  const store = await storeIn(t, await scratch(t))
  await store.putSegment(A, { offset: 0 }, bytesOf(1))
  await store.describe(A, { size: 2000 })
  await assert.rejects(store.markComplete(A), { code: 'BLOCK_MISSING' })
  await store.putSegment(A, { offset: 1000 }, bytesOf(2))
  await store.markComplete(A)
  // Its size is settled then; the rest may still change.
  await store.describe(A, { size: 5, mediaType: 'text/plain' })
  assert.equal((await store.blob(A))?.size, 2000)
  assert.equal((await store.blob(A))?.mediaType, 'text/plain')
  await store.dropSegment(A, 1000)
  assert.equal((await store.blob(A))?.complete, false)

  // An empty blob has no blocks at all, and one whose size nobody said has the size of what is here.
  await store.describe(B, { size: 0 })
  await store.markComplete(B)
  assert.equal((await store.blob(B))?.complete, true)
  const C = blobNamed('c')
  await store.putSegment(C, { offset: 0 }, bytesOf(3, 10))
  await store.markComplete(C)
  assert.equal((await store.blob(C))?.size, 10)
})

test('listeners hear of every segment that leaves, and a failing one harms nobody', async (t) => {
  const store = await storeIn(t, await scratch(t))
  const heard: [string, number[]][] = []
  store.onDropped(() => {
    throw new Error('on purpose')
  })
  const unsubscribe = store.onDropped((digest, offsets) => heard.push([digest, offsets]))
  await putBlob(store, A, 300, 10)
  await store.dropSegment(A, 20)
  assert.deepEqual(heard, [[A, [20]]])
  heard.length = 0
  await store.remove(A)
  const offsets = heard.flatMap(([, some]) => some)
  assert.deepEqual(
    offsets.toSorted((a, b) => a - b),
    Array.from({ length: 300 }, (_, i) => i * 10).filter((offset) => offset !== 20),
  )
  unsubscribe()
  heard.length = 0
  await putBlob(store, A, 1)
  await store.remove(A)
  assert.deepEqual(heard, [])
})

test('the same segment put many times at once, while others read and remove it, is all or nothing', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const bytes = randomBytes(BLOCK_SIZE)
  const cid = cidOf(bytes)
  await Promise.all(Array.from({ length: 20 }, () => store.putSegment(A, { offset: 0 }, bytes)))
  assert.deepEqual(store.usage(), { bytes: BLOCK_SIZE, blocks: 1, borrowed: 0, quota: undefined })
  assert.equal((await store.blob(A))?.bytesHere, BLOCK_SIZE)
  await Promise.all(
    Array.from({ length: 60 }, async (_, i) => {
      if (i % 3 === 0) await store.putSegment(i % 2 ? A : B, { offset: 0 }, bytes)
      else if (i % 3 === 1) await store.remove(i % 2 ? A : B)
      else
        await store.read(cid).then(
          (read) => assert.deepEqual(read, bytes),
          (error) => assert.equal(error.code, 'BLOCK_MISSING'),
        )
    }),
  )
  await store.remove(A)
  await store.remove(B)
  assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: 0, quota: undefined })
  assert.deepEqual(await filesIn(dir), [])
  assert.deepEqual(await stagedIn(dir), [])
})

test('an aborted operation ends with ABORTED and leaves nothing', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const bytes = randomBytes(BLOCK_SIZE)
  await assert.rejects(store.putSegment(A, { offset: 0 }, bytes, AbortSignal.abort()), { code: 'ABORTED' })
  await assert.rejects(store.read(cidOf(bytes), { signal: AbortSignal.abort() }), { code: 'ABORTED' })
  // In mid-work, and while waiting for a turn.
  const abort = new AbortController()
  const puts = Array.from({ length: 30 }, (_, i) =>
    store.putSegment(A, { offset: i * BLOCK_SIZE }, bytes, abort.signal),
  )
  abort.abort()
  for (const put of await Promise.allSettled(puts)) {
    assert.equal(put.status, 'rejected')
    assert.equal(put.reason.code, 'ABORTED')
  }
  assert.deepEqual(await filesIn(dir), [])
  assert.deepEqual(await stagedIn(dir), [])
  // And nobody's turn was lost.
  await Promise.all(Array.from({ length: 30 }, (_, i) => store.putSegment(A, { offset: i }, bytesOf(i))))
})

test('closing waits for work under way; after it everything is refused', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const puts = Array.from({ length: 20 }, (_, i) => store.putSegment(A, { offset: i * 1000 }, bytesOf(i)))
  await store.close()
  await Promise.all(puts)
  await store.close()
  await assert.rejects(store.putSegment(A, { offset: 0 }, bytesOf(1)), { code: 'ABORTED' })
  await assert.rejects(store.read(cidOf(bytesOf(1))), { code: 'ABORTED' })
  await assert.rejects(store.records('x').get('y'), { code: 'ABORTED' })
  const again = await storeIn(t, dir)
  assert.equal((await again.segments(A)).length, 20)
})

test('records are JSON values in tables of their own', async (t) => {
  const dir = await scratch(t)
  let store = await storeIn(t, dir)
  const tags = store.records<{ digest: string }>('tags')
  const other = store.records<number>('tags2')
  for (let i = 0; i < 600; i++) await tags.put(`host/repo:${String(i).padStart(3, '0')}`, { digest: `d${i}` })
  await other.put('host/é\u{1f419}', 7)
  await tags.put('zz', { digest: 'z' }, { sync: true })
  await store.close()
  store = await storeIn(t, dir)
  const again = store.records<{ digest: string }>('tags')
  assert.deepEqual(await again.get('host/repo:007'), { digest: 'd7' })
  assert.equal(await again.get('host/repo:7'), undefined)
  assert.equal((await all(again.entries())).length, 601)
  assert.deepEqual(await all(again.entries('host/repo:59')), [
    ...Array.from({ length: 10 }, (_, i) => [`host/repo:59${i}`, { digest: `d59${i}` }]),
  ])
  assert.deepEqual(await all(store.records<number>('tags2').entries()), [['host/é\u{1f419}', 7]])
  // Changing the table as one goes is fine.
  for await (const [key] of again.entries()) await again.delete(key)
  assert.deepEqual(await all(again.entries()), [])
  assert.throws(() => store.records('a/b'), { code: 'NAME_INVALID' })
  await assert.rejects(store.records<undefined>('x').put('k', undefined), { code: 'INTERNAL' })
})
