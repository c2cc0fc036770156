import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { copyFile, open, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore, cidOf, type Segment } from '../../blockstore/index.ts'
import { blobNamed, filesIn, putBlob, scratch, storeIn } from './tools.ts'

const MIB = BLOCK_SIZE

function sign({ cid }: Segment): { seeder: string; signature: Uint8Array } {
  return { seeder: 'me', signature: Buffer.from(cid.slice(-8)) }
}

function borrow(store: BlockStore, digest: Digest, path: string): Promise<boolean> {
  return store.borrow(digest, path, { sign, signal: new AbortController().signal })
}

/** A file beside the store, and its blocks. */
async function foreign(
  dir: string,
  name: string,
  bytes: Buffer,
): Promise<{ path: string; bytes: Buffer; digest: Digest; blocks: Buffer[] }> {
  const path = join(dir, name)
  await writeFile(path, bytes)
  const blocks = Array.from({ length: Math.ceil(bytes.length / MIB) }, (_, i) =>
    bytes.subarray(i * MIB, (i + 1) * MIB),
  )
  return { path, bytes, digest: digestOf(bytes), blocks }
}

/** Puts the blocks as a node does that pulls the blob. */
async function pulled(store: BlockStore, digest: Digest, blocks: Buffer[]): Promise<void> {
  for (const [i, bytes] of blocks.entries()) {
    const by = { seeder: 'upstream seeder', signature: Buffer.from(`cut ${i}`) }
    await store.putSegment(digest, { offset: i * MIB, ...by }, bytes)
  }
  await store.describe(digest, {
    size: blocks.reduce((sum, block) => sum + block.length, 0),
    mediaType: 'a/layer',
  })
  await store.markComplete(digest)
}

async function expectWhole(store: BlockStore, digest: Digest, blocks: Buffer[]): Promise<void> {
  const segments = await store.segments(digest)
  assert.deepEqual(
    segments.map(({ cid, offset, length }) => ({ cid, offset, length })),
    blocks.map((block, i) => ({ cid: cidOf(block), offset: i * MIB, length: block.length })),
  )
  for (const [i, { cid, seeder, signature }] of segments.entries()) {
    assert.ok(seeder && signature, 'every segment is signed')
    assert.ok((await store.read(cid)).equals(blocks[i] ?? assert.fail()))
  }
  const blob = await store.blob(digest)
  assert.equal(blob?.complete, true)
  assert.equal(
    blob.bytesHere,
    blocks.reduce((sum, block) => sum + block.length, 0),
  )
}

async function setUp(t: TestContext, options = {}) {
  const dir = await scratch(t)
  const root = join(dir, 'store')
  return { dir, root, store: await storeIn(t, root, options) }
}

const heardBy = (store: BlockStore): Map<Digest, number[]> => {
  const heard = new Map<Digest, number[]>()
  store.onDropped((digest, offsets) => heard.set(digest, [...(heard.get(digest) ?? []), ...offsets]))
  return heard
}

test('a pulled blob lies in the file from then on, and the own blocks go', async (t) => {
  const { dir, root, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(3 * MIB + 1000))
  await pulled(store, file.digest, file.blocks)
  const before = await store.segments(file.digest)
  const heard = heardBy(store)
  assert.equal(await borrow(store, file.digest, file.path), true)
  assert.deepEqual(await store.segments(file.digest), before, 'what was signed stays as it was')
  await expectWhole(store, file.digest, file.blocks)
  assert.deepEqual(await filesIn(root), [])
  assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: file.bytes.length, quota: undefined })
  const blob = await store.blob(file.digest)
  assert.equal(blob?.borrowedFrom, file.path)
  assert.equal(blob.mediaType, 'a/layer')
  assert.deepEqual([...heard], [])
  assert.equal(await borrow(store, file.digest, file.path), true, 'once more changes nothing')
  assert.equal(store.usage().borrowed, file.bytes.length)
})

for (const length of [0, 1, MIB, MIB + 1, 5 * MIB]) {
  test(`a file of ${length} bytes that the store knew nothing of`, async (t) => {
    const { dir, root, store } = await setUp(t)
    const file = await foreign(dir, 'layer', randomBytes(length))
    assert.equal(await borrow(store, file.digest, file.path), true)
    await expectWhole(store, file.digest, file.blocks)
    assert.deepEqual(await filesIn(root), [])
    await store.giveBack(file.digest)
    assert.equal(await store.blob(file.digest), undefined)
    assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: 0, quota: undefined })
    assert.ok((await readFile(file.path)).equals(file.bytes), 'the file is as it was')
  })
}

test('more blocks than go in one turn', async (t) => {
  const { dir, root, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(130 * MIB))
  await pulled(store, file.digest, file.blocks.slice(0, 129).concat(file.blocks.slice(129)))
  assert.equal(await borrow(store, file.digest, file.path), true)
  assert.deepEqual(await filesIn(root), [])
  assert.equal((await store.blob(file.digest))?.bytesHere, file.bytes.length)
  const heard = heardBy(store)
  await store.giveBack(file.digest)
  assert.equal(heard.get(file.digest)?.length, 130)
  assert.equal(await store.blob(file.digest), undefined)
})

test('what is half here becomes whole, and a wrong block of it goes', async (t) => {
  const { dir, root, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(3 * MIB))
  await store.putSegment(
    file.digest,
    { offset: 0, seeder: 'x', signature: Buffer.from('s') },
    file.blocks[0]!,
  )
  await store.putSegment(
    file.digest,
    { offset: MIB, seeder: 'liar', signature: Buffer.from('l') },
    randomBytes(MIB),
  )
  await store.putSegment(file.digest, { offset: 2 * MIB + 5 }, randomBytes(100))
  assert.equal(await borrow(store, file.digest, file.path), true)
  await expectWhole(store, file.digest, file.blocks)
  assert.deepEqual(
    (await store.segments(file.digest)).map(({ seeder }) => seeder),
    ['x', 'me', 'me'],
  )
  assert.deepEqual(await filesIn(root), [])
  assert.equal(store.usage().bytes, 0)
})

test('a file with other bytes, or none, is not borrowed', async (t) => {
  const { dir, root, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(2 * MIB))
  const other = await foreign(dir, 'other', randomBytes(2 * MIB))
  const short = await foreign(dir, 'short', file.bytes.subarray(0, -1))
  const long = await foreign(dir, 'long', Buffer.concat([file.bytes, Buffer.from('x')]))
  for (const pulledBefore of [false, true]) {
    if (pulledBefore) await pulled(store, file.digest, file.blocks)
    for (const path of [
      other.path,
      short.path,
      long.path,
      dir,
      join(dir, 'nothing'),
      join(dir, 'layer', 'x'),
    ]) {
      assert.equal(await borrow(store, file.digest, path), false, path)
    }
  }
  await expectWhole(store, file.digest, file.blocks)
  assert.equal((await filesIn(root)).length, 2)
  assert.equal(store.usage().borrowed, 0)
})

const flip = async (path: string, at: number): Promise<void> => {
  const file = await open(path, 'r+')
  await file.write(Buffer.from('not what was here'), 0, 17, at)
  await file.close()
}

for (const how of ['while open', 'while closed', 'after a crash'] as const) {
  /** Something happens to the file; what is left of the blob then, and what the store says of the rest. */
  const cases: { name: string; harm: (path: string) => Promise<void>; left: number[]; code: string }[] = [
    { name: 'cut short', harm: (path) => truncate(path, 2 * MIB + 5), left: [0, 1], code: 'BLOCK_CORRUPT' },
    { name: 'changed in place', harm: (path) => flip(path, MIB + 7), left: [0, 2], code: 'BLOCK_CORRUPT' },
    { name: 'removed', harm: (path) => rm(path), left: [], code: 'BLOCK_MISSING' },
    {
      name: 'replaced by a directory',
      async harm(path) {
        await rm(path)
        await (await import('node:fs/promises')).mkdir(path)
      },
      left: [],
      code: 'BLOCK_MISSING',
    },
    {
      name: 'replaced by the same',
      async harm(path) {
        await copyFile(path, `${path}.new`)
        await rename(`${path}.new`, path)
      },
      left: [0, 1, 2],
      code: '',
    },
  ]
  for (const { name, harm, left, code } of cases) {
    test(`a borrowed file that is ${name} ${how}: blocks are lost, none is wrong`, async (t) => {
      const made = await setUp(t)
      let { store } = made
      const file = await foreign(made.dir, 'layer', randomBytes(3 * MIB))
      const cids = file.blocks.map((block) => cidOf(block))
      await borrow(store, file.digest, file.path)
      for (const cid of cids) await store.read(cid)
      if (how !== 'while open') await store.close()
      await harm(file.path)
      const now = await stat(file.path).catch(() => undefined)
      if (how === 'after a crash') await rm(join(made.root, 'clean.json'))
      if (how !== 'while open') store = await storeIn(t, made.root)
      const swept = how === 'after a crash' && name !== 'changed in place'
      const heard = heardBy(store)
      const lost: number[] = []
      for (const [i, cid] of cids.entries()) {
        try {
          assert.ok((await store.read(cid)).equals(file.blocks[i]!))
        } catch (error) {
          const expected = swept || (lost.length > 0 && code === 'BLOCK_MISSING') ? 'BLOCK_MISSING' : code
          assert.equal((error as { code: string }).code, expected)
          lost.push(i)
        }
      }
      assert.deepEqual(
        [0, 1, 2].filter((i) => !lost.includes(i)),
        left,
      )
      assert.deepEqual(
        (await store.segments(file.digest)).map(({ offset }) => offset),
        left.map((i) => i * MIB),
      )
      if (!swept && lost.length > 0)
        assert.deepEqual(
          heard.get(file.digest)?.sort(),
          lost.map((i) => i * MIB),
        )
      assert.equal((await store.blob(file.digest))?.complete ?? false, left.length === 3)
      assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: left.length * MIB, quota: undefined })
      assert.deepEqual(
        await stat(file.path)
          .catch(() => undefined)
          .then((s) => s?.ino),
        now?.ino,
        'it is left alone',
      )

      // A neighbour has them still: they come back as own blocks.
      for (const i of lost) {
        await store.putSegment(file.digest, { offset: i * MIB, expect: cids[i]! }, file.blocks[i]!)
      }
      assert.equal(store.usage().bytes, lost.length * MIB)
      for (const [i, cid] of cids.entries()) {
        if (lost.includes(i) || left.includes(i)) assert.ok((await store.read(cid)).equals(file.blocks[i]!))
      }
    })
  }
}

test('who reads while the file goes, reads to the end', async (t) => {
  const { dir, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(MIB))
  await borrow(store, file.digest, file.path)
  const cid = cidOf(file.bytes)
  const reads = Array.from({ length: 8 }, () => store.read(cid))
  await rm(file.path)
  for (const read of await Promise.allSettled(reads)) {
    if (read.status === 'fulfilled') assert.ok(read.value.equals(file.bytes))
    else assert.equal(read.reason.code, 'BLOCK_MISSING')
  }
  await assert.rejects(store.read(cid), { code: 'BLOCK_MISSING' })
  assert.equal(await store.blob(file.digest), undefined)
})

test('a block that blobs share has one place', async (t) => {
  const { dir, root, store } = await setUp(t)
  const shared = randomBytes(MIB)
  const a = await foreign(dir, 'a', Buffer.concat([randomBytes(MIB), shared, shared]))
  const b = await foreign(dir, 'b', Buffer.concat([shared, randomBytes(MIB)]))
  const c = await foreign(dir, 'c', Buffer.concat([shared, randomBytes(500)]))
  for (const { digest, blocks } of [a, b, c]) await pulled(store, digest, blocks)
  assert.equal(await borrow(store, a.digest, a.path), true)
  assert.deepEqual(store.usage(), { bytes: MIB + 500, blocks: 2, borrowed: 2 * MIB, quota: undefined })
  assert.equal(await borrow(store, b.digest, b.path), true)
  assert.deepEqual(store.usage(), { bytes: 500, blocks: 1, borrowed: 3 * MIB, quota: undefined })
  for (const { digest, blocks } of [a, b, c]) await expectWhole(store, digest, blocks)

  // The shared block moves over to the file of the other; the third, which is not borrowed, keeps what it needs.
  const heard = heardBy(store)
  await rm(a.path)
  await store.giveBack(a.digest)
  assert.deepEqual(heard.get(a.digest), [0])
  assert.equal(heard.size, 1)
  for (const { digest, blocks } of [b, c]) await expectWhole(store, digest, blocks)
  assert.deepEqual(store.usage(), { bytes: 500, blocks: 1, borrowed: 2 * MIB, quota: undefined })

  // Now nobody has it: the third loses it too, and what is its own stays.
  await rm(b.path)
  await store.giveBack(b.digest)
  assert.deepEqual(heard.get(c.digest), [0])
  assert.equal((await store.blob(c.digest))?.complete, false)
  assert.deepEqual(store.usage(), { bytes: 500, blocks: 1, borrowed: 0, quota: undefined })
  assert.deepEqual(await filesIn(root), [cidOf(c.blocks[1]!)])
})

test('removing a borrowed blob moves what another borrowed one shares with it', async (t) => {
  const { dir, store } = await setUp(t)
  const shared = randomBytes(MIB)
  const a = await foreign(dir, 'a', Buffer.concat([shared, shared, randomBytes(10)]))
  const b = await foreign(dir, 'b', Buffer.concat([shared, randomBytes(20)]))
  await borrow(store, a.digest, a.path)
  await borrow(store, b.digest, b.path)
  await store.remove(a.digest)
  assert.equal(await store.blob(a.digest), undefined)
  await expectWhole(store, b.digest, b.blocks)
  assert.equal(store.usage().borrowed, MIB + 20)
  await store.remove(b.digest)
  assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: 0, quota: undefined })
})

test('a put of what lies in a borrowed file writes nothing', async (t) => {
  const { dir, root, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(2 * MIB))
  await borrow(store, file.digest, file.path)
  const other = blobNamed('other')
  await store.putSegment(other, { offset: 0, expect: cidOf(file.blocks[1]!) }, file.blocks[1]!)
  assert.deepEqual(await filesIn(root), [])
  assert.equal((await store.blob(other))?.bytesHere, MIB)
})

test('the quota does not count what is borrowed, and eviction leaves it alone', async (t) => {
  const { dir, store } = await setUp(t, { quota: 3 * MIB })
  const file = await foreign(dir, 'layer', randomBytes(8 * MIB))
  assert.equal(await borrow(store, file.digest, file.path), true)
  await putBlob(store, blobNamed('old'), 2, MIB)
  await putBlob(store, blobNamed('new'), 2, MIB)
  assert.equal(await store.blob(blobNamed('old')), undefined, 'evicted, though the borrowed one is older')
  await expectWhole(store, file.digest, file.blocks)
  assert.deepEqual(store.usage(), { bytes: 2 * MIB, blocks: 2, borrowed: 8 * MIB, quota: 3 * MIB })
})

test('what is pinned has own files: it keeps them, or gets them', async (t) => {
  const { dir, root, store } = await setUp(t)
  const shared = randomBytes(MIB)
  const a = await foreign(dir, 'a', Buffer.concat([shared, randomBytes(MIB), shared]))
  const b = await foreign(dir, 'b', Buffer.concat([shared, randomBytes(77)]))
  await pulled(store, a.digest, a.blocks)
  await store.pin(a.digest, true)
  assert.equal(await borrow(store, a.digest, a.path), true)
  assert.deepEqual(store.usage(), { bytes: 2 * MIB, blocks: 2, borrowed: 0, quota: undefined })
  await store.pin(a.digest, false)
  await borrow(store, a.digest, a.path)
  await borrow(store, b.digest, b.path)
  assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: 2 * MIB + 77, quota: undefined })

  await store.pin(a.digest, true)
  assert.deepEqual(store.usage(), { bytes: 2 * MIB, blocks: 2, borrowed: 77, quota: undefined })
  await rm(a.path)
  await rm(b.path)
  await store.giveBack(a.digest)
  await store.giveBack(b.digest)
  await expectWhole(store, a.digest, a.blocks)
  assert.deepEqual((await filesIn(root)).sort(), [...new Set(a.blocks.map((block) => cidOf(block)))].sort())
})

test('pinning what has just gone says that it is damaged', async (t) => {
  const { dir, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(MIB))
  await borrow(store, file.digest, file.path)
  await rm(file.path)
  const damaged: [Digest, number[]][] = []
  store.onDamaged(({ digest }, offsets) => damaged.push([digest, offsets]))
  await store.pin(file.digest, true)
  assert.deepEqual(damaged, [[file.digest, [0]]])
  assert.equal((await store.blob(file.digest))?.pinned, true)
})

test('what is borrowed is remembered over a restart, tidy or not', async (t) => {
  const made = await setUp(t)
  let { store } = made
  const file = await foreign(made.dir, 'layer', randomBytes(2 * MIB + 1))
  await borrow(store, file.digest, file.path)
  for (const tidy of [true, false]) {
    await store.close()
    if (!tidy) await rm(join(made.root, 'clean.json'))
    store = await storeIn(t, made.root)
    await expectWhole(store, file.digest, file.blocks)
    assert.equal(store.usage().borrowed, 2 * MIB + 1)
  }
})

test('reading a file ends with the signal, and is held to a rate', async (t) => {
  const { dir, store } = await setUp(t)
  const file = await foreign(dir, 'layer', randomBytes(4 * MIB))
  const stop = new AbortController()
  const borrowing = store.borrow(file.digest, file.path, { sign, bytesPerSecond: 1000, signal: stop.signal })
  setTimeout(() => stop.abort(), 20)
  await assert.rejects(borrowing, { code: 'ABORTED' })
  assert.equal(await store.blob(file.digest), undefined)
  const startedAt = performance.now()
  const { signal } = new AbortController()
  await store.borrow(file.digest, file.path, { sign, bytesPerSecond: 16 * MIB, signal })
  assert.ok(performance.now() - startedAt > 200)
})
