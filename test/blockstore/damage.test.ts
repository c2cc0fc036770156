import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { open, readdir, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { Digest } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { blobNamed, blockPath, bytesOf, filesIn, putBlob, scratch, stagedIn, storeIn } from './tools.ts'

const A = blobNamed('a')
const B = blobNamed('b')
const LENGTH = 100_000

async function flip(path: string): Promise<void> {
  const file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, 50_000)
  byte.writeUInt8(byte.readUInt8() ^ 1)
  await file.write(byte, 0, 1, 50_000)
  await file.close()
}

/** Ways to damage a block's file, and what reading it then ends with. */
const damages: { name: string; code: string; damage: (path: string) => Promise<void> }[] = [
  { name: 'a flipped bit', code: 'BLOCK_CORRUPT', damage: flip },
  {
    name: 'a flipped bit under the old modification time',
    code: 'BLOCK_CORRUPT',
    async damage(path) {
      const { atime, mtime } = await stat(path)
      await flip(path)
      await utimes(path, atime, mtime)
    },
  },
  { name: 'truncation', code: 'BLOCK_CORRUPT', damage: (path) => truncate(path, LENGTH - 1) },
  { name: 'truncation to nothing', code: 'BLOCK_CORRUPT', damage: (path) => truncate(path, 0) },
  { name: 'bytes at the end', code: 'BLOCK_CORRUPT', damage: (path) => truncate(path, LENGTH + 1) },
  { name: 'removal', code: 'BLOCK_MISSING', damage: (path) => rm(path) },
  {
    name: 'another file in its place',
    code: 'BLOCK_CORRUPT',
    async damage(path) {
      await writeFile(`${path}.new`, randomBytes(LENGTH))
      await rename(`${path}.new`, path)
    },
  },
]

for (const { name, code, damage } of damages) {
  for (const when of ['while open', 'while closed', 'after a crash'] as const) {
    test(`${name} ${when}: dropped everywhere, and put again`, async (t) => {
      const dir = await scratch(t)
      let store = await storeIn(t, dir)
      const bytes = randomBytes(LENGTH)
      const cid = await store.putSegment(A, { offset: 0 }, bytes)
      const good = await store.putSegment(A, { offset: LENGTH }, randomBytes(LENGTH))
      await store.putSegment(A, { offset: 2 * LENGTH }, bytes)
      await store.putSegment(B, { offset: 0 }, bytes)
      await store.describe(A, { size: 3 * LENGTH })
      await store.markComplete(A)
      await store.markComplete(B)
      assert.deepEqual(await store.read(cid), bytes)

      if (when !== 'while open') await store.close()
      await damage(blockPath(dir, cid))
      if (when === 'after a crash') await rm(`${dir}/clean.json`)
      if (when !== 'while open') store = await storeIn(t, dir)

      const heard = new Map<Digest, number[]>()
      store.onDropped((digest, offsets) => heard.set(digest, offsets))
      // Those who read at once all learn of it; the one that comes too late finds nothing at all.
      const reads = await Promise.allSettled([store.read(cid), store.read(cid), store.read(cid)])
      const codes = reads.map((read) => (read.status === 'rejected' ? read.reason.code : 'fine'))
      const afterSweep = when === 'after a crash' && !/flipped|another/.test(name)
      assert.ok(codes.includes(afterSweep ? 'BLOCK_MISSING' : code), codes.join())
      assert.ok(!codes.includes('fine'))
      if (!afterSweep) {
        assert.deepEqual([...heard].sort(), [[A, [0, 2 * LENGTH]] as const, [B, [0]] as const].sort())
      }
      await expectDropped(store)
      assert.deepEqual(await filesIn(dir), [good])

      await store.putSegment(B, { offset: 0, expect: cid }, bytes)
      assert.deepEqual(await store.read(cid), bytes)
      assert.deepEqual(await stagedIn(dir), [])

      async function expectDropped(of: BlockStore): Promise<void> {
        assert.equal(await of.has(cid), false)
        assert.deepEqual(
          (await of.segments(A)).map(({ offset }) => offset),
          [LENGTH],
        )
        assert.deepEqual(await of.segments(B), [])
        assert.equal((await of.blob(A))?.complete, false)
        assert.equal((await of.blob(A))?.bytesHere, LENGTH)
        assert.equal((await of.blob(B))?.complete, false)
        assert.deepEqual(of.usage(), { bytes: LENGTH, blocks: 1, borrowed: 0, quota: undefined })
      }
    })
  }
}

test('a put repairs a damaged file of the same block', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const bytes = randomBytes(LENGTH)
  const cid = await store.putSegment(A, { offset: 0 }, bytes)
  await flip(blockPath(dir, cid))
  await store.putSegment(B, { offset: 0 }, bytes)
  assert.deepEqual(await store.read(cid), bytes)
  await rm(blockPath(dir, cid))
  await store.putSegment(B, { offset: LENGTH, expect: cid }, bytes)
  assert.deepEqual(await store.read(cid), bytes)
  assert.equal((await store.segments(A)).length, 1)
  assert.deepEqual(store.usage(), { bytes: LENGTH, blocks: 1, borrowed: 0, quota: undefined })
})

test('a start after a crash removes what nobody names and recounts what is here', async (t) => {
  const dir = await scratch(t)
  let store = await storeIn(t, dir)
  const cids = await putBlob(store, A, 20, LENGTH)
  const size = 20 * LENGTH
  await store.close()
  await rm(`${dir}/clean.json`)
  const [first = '', second = ''] = cids
  await rm(blockPath(dir, first))
  await writeFile(`${dir}/tmp/0`, 'half a block')
  await writeFile(blockPath(dir, second).replace(/..$/, 'xx'), 'no block')
  await writeFile(`${dir}/blocks/stray`, 'not even in a directory')
  store = await storeIn(t, dir)
  assert.deepEqual(store.usage(), { bytes: size - LENGTH, blocks: 19, borrowed: 0, quota: undefined })
  assert.equal((await store.blob(A))?.bytesHere, size - LENGTH)
  assert.equal((await store.blob(A))?.complete, false)
  assert.deepEqual(await stagedIn(dir), [])
  assert.deepEqual((await filesIn(dir)).sort(), [...cids.slice(1), 'stray'].sort())
  for (const { cid } of await store.segments(A)) await store.read(cid)
})

for (const damage of ['its manifest is lost', 'a table is cut short'] as const) {
  test(`an index is repaired when ${damage}, and what it lost is forgotten cleanly`, async (t) => {
    const dir = await scratch(t)
    let store = await storeIn(t, dir)
    await putBlob(store, A, 300)
    // Twice, so that the entries are in a table and not in the log only.
    await store.close()
    store = await storeIn(t, dir)
    await store.close()
    if (damage === 'its manifest is lost') await writeFile(`${dir}/index/CURRENT`, 'MANIFEST-999999\n')
    else {
      const tables = (await readdir(`${dir}/index`)).filter((name) => /\.(ldb|sst)$/.test(name))
      assert.ok(tables.length > 0)
      for (const name of tables) await truncate(`${dir}/index/${name}`, 2000)
    }
    store = await storeIn(t, dir)
    const segments = await store.segments(A)
    for (const { cid } of segments) await store.read(cid)
    if (damage === 'its manifest is lost') assert.equal(segments.length, 300)
    assert.equal(store.usage().blocks, segments.length)
    assert.equal((await store.blob(A))?.complete ?? false, segments.length === 300)
    assert.equal((await filesIn(dir)).length, segments.length)
    await store.putSegment(B, { offset: 0 }, bytesOf(1))
    assert.deepEqual(await store.read((await store.segments(B))[0]?.cid ?? ''), bytesOf(1))
  })
}

test('an index made unreadable on purpose is an error that names the directory', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  await store.close()
  await rm(`${dir}/index`, { recursive: true })
  await writeFile(`${dir}/index`, 'a file')
  await assert.rejects(storeIn(t, dir), (error: Error & { code: string }) => {
    assert.equal(error.code, 'STORE_BROKEN')
    return error.message.includes(dir)
  })
})
