import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, open, rm, rmdir, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { isShoalError } from '../../base/index.ts'
import { type BlockStore, openBlockStore } from '../../blockstore/index.ts'
import { all, blobNamed, filesIn, putBlob, stagedIn, storeIn } from './tools.ts'

const MIB = 1024 * 1024
const LENGTH = 256 * 1024
const A = blobNamed('a')

/** A directory on a file system of its own, small enough to fill; undefined (and the test skipped) where that needs rights. */
async function smallDisk(t: TestContext, mib: number): Promise<string | undefined> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-small-disk-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'tmpfs', dir], { stdio: 'pipe' })
  } catch {
    await rmdir(dir)
    t.skip('mounting a small file system needs root')
    return undefined
  }
  t.after(async () => {
    // Lazily: the hooks run in the order of their making, so a store may still be open when a test fails.
    execFileSync('umount', ['-l', dir])
    await rmdir(dir)
  })
  return join(dir, 'store')
}

/** Takes all room that the disk has left; the returned function gives it back. */
async function fill(dir: string): Promise<() => Promise<void>> {
  const path = join(dir, `../ballast-${Math.random()}`)
  const file = await open(path, 'w')
  const chunk = Buffer.alloc(MIB, 1)
  try {
    for (let size = MIB; size >= 1; ) {
      try {
        const { bytesWritten } = await file.write(chunk, 0, size)
        if (bytesWritten === 0) size >>= 1
      } catch {
        size >>= 1
      }
    }
  } finally {
    await file.close()
  }
  return () => rm(path)
}

async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir)
  return bavail * bsize
}

/** Everything that the store says it has can be read, and nothing else lies about. */
async function assertSound(dir: string, store: BlockStore): Promise<void> {
  const indexed = new Set<string>()
  let bytes = 0
  for (const blob of await all(store.blobs())) {
    let here = 0
    for (const { cid, length } of await store.segments(blob.digest)) {
      assert.equal((await store.read(cid)).length, length)
      if (!indexed.has(cid)) bytes += length
      indexed.add(cid)
      here += length
    }
    assert.equal(blob.bytesHere, here)
  }
  assert.deepEqual((await filesIn(dir)).sort(), [...indexed].sort())
  assert.deepEqual(await stagedIn(dir), [])
  assert.deepEqual({ ...store.usage() }, { bytes, blocks: indexed.size, quota: undefined })
}

test('a full disk makes room by eviction, and is STORE_FULL where nothing may go', async (t) => {
  const dir = await smallDisk(t, 24)
  if (dir === undefined) return
  const store = await storeIn(t, dir)
  // Three times what the disk takes: the old goes for the new.
  for (let i = 0; i < 18; i++) await putBlob(store, blobNamed(`blob ${i}`), 16, LENGTH)
  assert.ok(store.usage().bytes < 20 * MIB)
  await assertSound(dir, store)

  const release = store.hold(A)
  let offset = 0
  const put = async (): Promise<void> => {
    await store.putSegment(A, { offset }, randomBytes(LENGTH))
    offset += LENGTH
  }
  await assert.rejects(
    (async () => {
      for (;;) await put()
    })(),
    { code: 'STORE_FULL' },
  )
  assert.deepEqual(
    (await all(store.blobs())).map(({ digest }) => digest),
    [A],
  )
  // Many at once fail as one does.
  const results = await Promise.allSettled(Array.from({ length: 20 }, put))
  for (const result of results)
    if (result.status === 'rejected') assert.equal(result.reason.code, 'STORE_FULL')
  await assertSound(dir, store)
  assert.equal((await store.blob(A))?.bytesHere, store.usage().bytes)

  release()
  await putBlob(store, blobNamed('new'), 4, LENGTH)
  await assertSound(dir, store)
  await store.close()
  const again = await storeIn(t, dir)
  await assertSound(dir, again)
  await again.close()
})

test('a full disk takes cache, never what is kept, and keeping on it is all or nothing', async (t) => {
  const dir = await smallDisk(t, 24)
  if (dir === undefined) return
  let store = await storeIn(t, dir)
  const marks = Array.from({ length: 8 }, (_, i) => i * 2 * LENGTH)
  await putBlob(store, A, 16, LENGTH)
  await store.keep(A, marks)
  for (let i = 0; i < 10; i++) await putBlob(store, blobNamed(`blob ${i}`), 12, LENGTH)
  assert.deepEqual(
    (await store.segments(A)).map(({ offset }) => offset),
    marks,
  )
  await assertSound(dir, store)
  // With nothing but shares on it, the disk is full, and they stay.
  await store.collect(undefined, { all: true })
  const empty = await fill(dir)
  await rm(join(dir, 'spare'), { force: true })
  const emptyToo = await fill(dir)
  const before = await store.kept(A)
  const many = Array.from({ length: 50_000 }, (_, i) => i * LENGTH)
  const outcome = await store.keep(A, many).then(
    () => 'kept',
    (error: { code: string }) => error.code,
  )
  assert.ok(outcome === 'STORE_FULL' || outcome === 'kept', outcome)
  const after = outcome === 'kept' ? many : before
  assert.deepEqual(await store.kept(A), after)
  const scrubbed = await store.scrub({
    bytesPerSecond: Number.POSITIVE_INFINITY,
    signal: new AbortController().signal,
  })
  assert.deepEqual(scrubbed, { blocks: 8, bytes: 8 * LENGTH, bad: 0 })
  await empty()
  await emptyToo()
  await store.close()
  store = await storeIn(t, dir)
  assert.deepEqual(await store.kept(A), after)
  assert.equal((await store.segments(A)).length, 8)
  await assertSound(dir, store)
  await store.close()
})

test('an index that the disk has no room for is STORE_FULL, loses nothing and recovers by itself', async (t) => {
  const dir = await smallDisk(t, 24)
  if (dir === undefined) return
  let store = await storeIn(t, dir)
  store.hold(A)
  await putBlob(store, A, 16, LENGTH)
  const records = store.records<string>('values')
  const value = randomBytes(10_000).toString('base64')
  const stored: string[] = []
  const failed: string[] = []
  const write = async (key: string): Promise<boolean> => {
    try {
      await records.put(key, value)
      stored.push(key)
      return true
    } catch (error) {
      assert.ok(isShoalError(error, 'STORE_FULL'), String(error))
      failed.push(key)
      return false
    }
  }
  // Filled by somebody else, again and again until the spare room is used up too.
  const empty: (() => Promise<void>)[] = []
  for (let i = 0; i < 2000 && failed.length < 3; i++) {
    if (i % 20 === 0) empty.push(await fill(dir))
    await write(`key ${i}`)
  }
  assert.equal(failed.length, 3)
  assert.equal(await freeBytes(dir), 0)
  // Reads go on, of blocks and of the index.
  await assertSound(dir, store)
  for (const key of stored) assert.equal(await records.get(key), value)
  for (const key of failed) assert.equal(await records.get(key), undefined)
  await assert.rejects(store.describe(A, { mediaType: 'x' }), { code: 'STORE_FULL' })
  await assert.rejects(store.putSegment(blobNamed('b'), { offset: 0 }, randomBytes(10)), {
    code: 'STORE_FULL',
  })
  await assertSound(dir, store)

  for (const free of empty) await free()
  assert.ok(await write('later'))
  await putBlob(store, blobNamed('c'), 1, LENGTH)
  await assertSound(dir, store)
  for (const [round, crash] of [true, false].entries()) {
    // Not closing tidily is the same as being killed, as far as the next start can see.
    await store.close()
    if (crash) await rm(join(dir, 'clean.json'))
    store = await storeIn(t, dir)
    const again = store.records<string>('values')
    for (const key of stored) assert.equal(await again.get(key), value, `${key} in round ${round}`)
    for (const key of failed) assert.equal(await again.get(key), undefined, `${key} in round ${round}`)
    await assertSound(dir, store)
  }
  await store.close()
})

test('a blob can be removed from a disk without a byte left, and a store opened on it', async (t) => {
  const dir = await smallDisk(t, 24)
  if (dir === undefined) return
  let store = await storeIn(t, dir)
  await putBlob(store, A, 16, LENGTH)
  const b = blobNamed('b')
  await putBlob(store, b, 16, LENGTH)
  await store.close()
  await fill(dir)
  store = await storeIn(t, dir)
  await rm(join(dir, 'spare'), { force: true })
  await fill(dir)
  assert.equal(await freeBytes(dir), 0)
  await store.remove(A)
  assert.equal(store.usage().bytes, 16 * LENGTH)
  await assertSound(dir, store)
  await store.close()

  // Opening needs room of its own, or says what it lacks.
  await rm(join(dir, 'spare'), { force: true })
  await fill(dir)
  const outcome = await openBlockStore({ dir }).catch((error: unknown) => error)
  if (isShoalError(outcome)) {
    assert.equal(outcome.code, 'STORE_FULL')
    assert.ok(outcome.message.includes(dir))
  } else {
    await (outcome as BlockStore).close()
  }
})
