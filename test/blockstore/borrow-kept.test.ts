import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { ClassicLevel } from 'classic-level'
import { type Digest, digestOf } from '../../base/index.ts'
import { BLOCK_SIZE, type Blob, type BlockStore, cidOf } from '../../blockstore/index.ts'
import { blobNamed, filesIn, putBlob, scratch, storeIn } from './tools.ts'

const MIB = BLOCK_SIZE
const { signal } = new AbortController()
const sign = () => ({ seeder: 'me', signature: Buffer.from('signed') })

interface Layer {
  digest: Digest
  path: string
  bytes: Buffer
}

async function setUp(t: TestContext, options: { blocks?: number; quota?: number } = {}) {
  const dir = await scratch(t)
  const root = join(dir, 'store')
  const { blocks = 3, ...limits } = options
  const store = await storeIn(t, root, limits)
  return { root, store, dir, layer: await layerOf(dir, 'layer', randomBytes(blocks * MIB)) }
}

async function layerOf(dir: string, name: string, bytes: Buffer): Promise<Layer> {
  const path = join(dir, name)
  await writeFile(path, bytes)
  return { digest: digestOf(bytes), path, bytes }
}

async function put(store: BlockStore, { digest, bytes }: Layer, indexes: number[]): Promise<void> {
  for (const index of indexes) {
    const block = bytes.subarray(index * MIB, (index + 1) * MIB)
    await store.putSegment(digest, { offset: index * MIB, ...sign() }, block)
  }
  await store.describe(digest, { size: bytes.length })
}

const borrow = (store: BlockStore, { digest, path }: Layer): Promise<boolean> =>
  store.borrow(digest, path, { sign, signal })
const indexesOf = async (store: BlockStore, digest: Digest): Promise<number[]> =>
  (await store.segments(digest)).map(({ offset }) => offset / MIB)
const scrub = (store: BlockStore) => store.scrub({ bytesPerSecond: 1e12, signal })

function hear(store: BlockStore) {
  const dropped: [Digest, number[]][] = []
  const damaged: [Blob, number[]][] = []
  store.onDropped((digest, offsets) => dropped.push([digest, offsets]))
  store.onDamaged((blob, offsets) => damaged.push([blob, offsets]))
  return { dropped, damaged }
}

test('a share has own files, wherever it was before it was borrowed, and outlives the file', async (t) => {
  const made = await setUp(t)
  let { store } = made
  const { layer, root } = made
  await put(store, layer, [1])
  await store.keep(layer.digest, [0, MIB, 7 * MIB])
  assert.equal(await borrow(store, layer), true)
  for (const how of ['now', 'closed', 'killed'] as const) {
    if (how !== 'now') await store.close()
    if (how === 'killed') await rm(join(root, 'clean.json'))
    if (how !== 'now') store = await storeIn(t, root)
    const blob = await store.blob(layer.digest)
    assert.deepEqual([blob?.bytesHere, blob?.bytesKept, blob?.complete], [3 * MIB, 2 * MIB, true], how)
    assert.deepEqual(await store.kept(layer.digest), [0, MIB, 7 * MIB])
    assert.deepEqual(store.usage(), { bytes: 2 * MIB, blocks: 2, borrowed: MIB, quota: undefined })
    assert.equal((await filesIn(root)).length, 2)
    assert.equal(await borrow(store, layer), true)
  }
  await rm(layer.path)
  const { dropped } = hear(store)
  await store.giveBack(layer.digest)
  assert.deepEqual(dropped, [[layer.digest, [2 * MIB]]])
  for (const { cid } of await store.segments(layer.digest)) await store.read(cid)
})

test('what is kept no longer moves to the file when it is borrowed again', async (t) => {
  const { store, layer, root } = await setUp(t)
  await borrow(store, layer)
  assert.equal((await store.blob(layer.digest))?.mayMove, false)
  await store.keep(layer.digest, [0, MIB])
  assert.equal(store.usage().bytes, 2 * MIB)
  await store.keep(layer.digest, [MIB])
  assert.equal((await store.blob(layer.digest))?.mayMove, true)
  assert.equal(await borrow(store, layer), true)
  assert.equal((await store.blob(layer.digest))?.mayMove, false)
  assert.deepEqual(store.usage(), { bytes: MIB, blocks: 1, borrowed: 2 * MIB, quota: undefined })
  await store.keep(layer.digest, [])
  assert.equal((await store.blob(layer.digest))?.bytesKept, 0)
  assert.equal(await borrow(store, layer), true)
  assert.deepEqual(await filesIn(root), [])
})

test('what an end that came too early left in own files moves after the next start', async (t) => {
  const made = await setUp(t)
  await put(made.store, made.layer, [0, 1, 2])
  await made.store.markComplete(made.layer.digest)
  await made.store.close()
  // As if killed between the record that names the file and the blocks that move.
  const index = new ClassicLevel(join(made.root, 'index'))
  const key = `blob/${made.layer.digest}`
  const record = JSON.parse((await index.get(key)) ?? assert.fail())
  await index.put(key, JSON.stringify({ ...record, borrowedFrom: made.layer.path }))
  await index.close()
  const store = await storeIn(t, made.root)
  const blob = await store.blob(made.layer.digest)
  assert.deepEqual([blob?.complete, blob?.borrowedFrom, blob?.mayMove], [true, made.layer.path, true])
  assert.equal(store.usage().bytes, 3 * MIB)
  assert.equal(await borrow(store, made.layer), true)
  assert.deepEqual(store.usage(), { bytes: 0, blocks: 0, borrowed: 3 * MIB, quota: undefined })
  assert.deepEqual(await filesIn(made.root), [])
})

test('a blob that is held does not move, nor what it shares with another', async (t) => {
  const { store, layer, dir } = await setUp(t)
  await put(store, layer, [0, 1, 2])
  await store.markComplete(layer.digest)
  const shared = await layerOf(dir, 'shared', Buffer.concat([layer.bytes.subarray(0, MIB), randomBytes(50)]))
  const release = store.hold(layer.digest)
  await assert.rejects(borrow(store, layer), { code: 'BUSY' })
  assert.equal(await borrow(store, shared), true)
  assert.deepEqual(store.usage(), { bytes: 3 * MIB, blocks: 3, borrowed: 50, quota: undefined })
  release()
  assert.equal(await borrow(store, layer), true)
  assert.equal(store.usage().bytes, 0)
})

test('a block of a share that comes by the name of a borrowed one gets an own file', async (t) => {
  const { store, layer, root } = await setUp(t)
  await borrow(store, layer)
  const other = blobNamed('other')
  await store.keep(other, [0])
  const block = layer.bytes.subarray(MIB, 2 * MIB)
  await store.putSegment(other, { offset: 0, expect: cidOf(block) }, block)
  assert.deepEqual(await filesIn(root), [cidOf(block)])
  await rm(layer.path)
  await store.giveBack(layer.digest)
  assert.ok((await store.read(cidOf(block))).equals(block))
  assert.equal((await store.blob(other))?.bytesKept, MIB)
})

test('what finds no room in own files is not kept', async (t) => {
  const { store, layer } = await setUp(t, { quota: MIB })
  await borrow(store, layer)
  await assert.rejects(store.keep(layer.digest, [0, MIB]), { code: 'STORE_FULL' })
  assert.deepEqual(await store.kept(layer.digest), [])
  assert.equal((await store.blob(layer.digest))?.complete, true)
  assert.equal(await borrow(store, layer), true)
  assert.equal(store.usage().bytes, 0, 'what was copied in vain is not there twice')
  await store.keep(layer.digest, [MIB])
  assert.equal((await store.blob(layer.digest))?.bytesKept, MIB)
})

test('marks that wait for blocks for which there is no room go on waiting; the rest is borrowed', async (t) => {
  const { store, layer } = await setUp(t, { quota: MIB })
  await store.keep(layer.digest, [0, MIB])
  await assert.rejects(borrow(store, layer), { code: 'STORE_FULL' })
  assert.deepEqual(await indexesOf(store, layer.digest), [0, 2])
  const blob = await store.blob(layer.digest)
  assert.deepEqual([blob?.complete, blob?.bytesKept], [false, MIB])
  await store.keep(layer.digest, [])
  assert.equal(await borrow(store, layer), true)
  assert.equal((await store.blob(layer.digest))?.complete, true)
  assert.equal(store.usage().borrowed, 3 * MIB)
})

test('a file that is given back while it is there leaves the share', async (t) => {
  const { store, layer, root } = await setUp(t)
  await borrow(store, layer)
  await store.keep(layer.digest, [0, 2 * MIB, 9 * MIB])
  const { dropped, damaged } = hear(store)
  await store.giveBack(layer.digest)
  assert.deepEqual(dropped, [[layer.digest, [MIB]]])
  assert.deepEqual(damaged, [])
  const blob = await store.blob(layer.digest)
  assert.deepEqual([blob?.bytesHere, blob?.bytesKept, blob?.borrowedFrom], [2 * MIB, 2 * MIB, undefined])
  assert.deepEqual(store.usage(), { bytes: 2 * MIB, blocks: 2, borrowed: 0, quota: undefined })
  assert.equal((await filesIn(root)).length, 2)
  for (const { cid } of await store.segments(layer.digest)) await store.read(cid)
})

test('a pinned blob that is given back is reported as damaged; the share that lay in its file is not', async (t) => {
  const { store, layer, root } = await setUp(t)
  await borrow(store, layer)
  const other = blobNamed('other')
  const block = layer.bytes.subarray(MIB, 2 * MIB)
  await store.putSegment(other, { offset: 0, expect: cidOf(block) }, block)
  await store.keep(other, [0])
  await store.describe(other, { size: MIB })
  await store.markComplete(other)
  assert.deepEqual(await filesIn(root), [cidOf(block)])
  const { damaged } = hear(store)
  // Pinned as its file went: it was not copied in time.
  await rm(layer.path)
  await store.pin(layer.digest, true)
  assert.deepEqual(
    damaged.map(([blob, offsets]) => [blob.digest, blob.complete, offsets]),
    [[layer.digest, true, [0, 2 * MIB]]],
  )
  const left = await store.blob(other)
  assert.deepEqual([left?.complete, left?.bytesKept], [true, MIB])
  assert.ok((await store.read(cidOf(block))).equals(block))
})

test('removing a borrowed blob tells those that lay in its file, and takes no share', async (t) => {
  const { store, layer } = await setUp(t)
  await borrow(store, layer)
  await store.keep(layer.digest, [0, 2 * MIB])
  const other = blobNamed('other')
  const block = layer.bytes.subarray(0, MIB)
  await store.putSegment(other, { offset: 0, expect: cidOf(block) }, block)
  await store.keep(other, [0])
  const cache = blobNamed('cache')
  const second = layer.bytes.subarray(MIB, 2 * MIB)
  await store.putSegment(cache, { offset: 0, expect: cidOf(second) }, second)
  const { dropped, damaged } = hear(store)
  await store.remove(layer.digest)
  assert.equal(await store.blob(layer.digest), undefined)
  assert.deepEqual(await store.kept(layer.digest), [])
  assert.deepEqual(new Set(dropped.map(([digest]) => digest)), new Set([layer.digest, cache]))
  assert.deepEqual(
    damaged.map(([blob, offsets]) => [blob.digest, offsets]),
    [[cache, [0]]],
  )
  const left = await store.blob(other)
  assert.deepEqual([left?.bytesHere, left?.bytesKept], [MIB, MIB])
  assert.deepEqual(store.usage(), { bytes: MIB, blocks: 1, borrowed: 0, quota: undefined })
  assert.ok((await readFile(layer.path)).equals(layer.bytes))
})

test('of a blob that is borrowed, kept and own in parts, only what frees something goes', async (t) => {
  const { store, layer, root } = await setUp(t, { blocks: 4 })
  await borrow(store, layer)
  // The file is no good at two places; these come from neighbours then, and one of them is kept.
  const file = await open(layer.path, 'r+')
  for (const index of [1, 2]) await file.write(Buffer.from('rot'), 0, 3, index * MIB)
  await file.close()
  assert.equal((await scrub(store)).bad, 2)
  await put(store, layer, [1, 2])
  await store.keep(layer.digest, [2 * MIB, 3 * MIB])
  assert.deepEqual(store.usage(), { bytes: 3 * MIB, blocks: 3, borrowed: MIB, quota: undefined })
  assert.equal((await store.blob(layer.digest))?.bytesKept, 2 * MIB)

  const release = store.hold(layer.digest)
  assert.equal(await store.trim(layer.digest), 0)
  release()
  assert.deepEqual(await store.collect(signal, { all: true }), { blobs: 1, bytes: MIB })
  assert.deepEqual(await indexesOf(store, layer.digest), [0, 2, 3])
  assert.deepEqual(await store.collect(signal, { all: true }), { blobs: 0, bytes: 0 })
  assert.equal(await store.trim(layer.digest), 0)
  assert.deepEqual(store.usage(), { bytes: 2 * MIB, blocks: 2, borrowed: MIB, quota: undefined })
  const own = [2, 3].map((index) => cidOf(layer.bytes.subarray(index * MIB, (index + 1) * MIB)))
  assert.deepEqual((await filesIn(root)).sort(), own.sort())

  // Without marks the own part goes too, and the record stays with what is borrowed.
  await store.keep(layer.digest, [])
  assert.equal(await store.trim(layer.digest), 2 * MIB)
  assert.deepEqual(await indexesOf(store, layer.digest), [0])
  assert.equal((await store.blob(layer.digest))?.borrowedFrom, layer.path)
})

test('what is borrowed fills no quota, and is no candidate when it is full', async (t) => {
  const { store, layer } = await setUp(t, { quota: 4 * MIB, blocks: 6 })
  await borrow(store, layer)
  const other = blobNamed('other')
  for (const index of [2, 3]) {
    const block = layer.bytes.subarray(index * MIB, (index + 1) * MIB)
    await store.putSegment(other, { offset: index * MIB, expect: cidOf(block) }, block)
  }
  const { dropped } = hear(store)
  await putBlob(store, blobNamed('cache'), 4, MIB)
  await putBlob(store, blobNamed('more cache'), 4, MIB)
  assert.equal(await store.blob(blobNamed('cache')), undefined)
  assert.deepEqual(await indexesOf(store, layer.digest), [0, 1, 2, 3, 4, 5])
  assert.deepEqual(await indexesOf(store, other), [2, 3], 'nothing is gained by taking it')
  assert.deepEqual([...new Set(dropped.map(([digest]) => digest))], [blobNamed('cache')])

  await store.keep(blobNamed('more cache'), [0, MIB, 2 * MIB, 3 * MIB])
  await assert.rejects(store.putSegment(blobNamed('x'), { offset: 0 }, randomBytes(MIB)), {
    code: 'STORE_FULL',
  })
  assert.deepEqual(await indexesOf(store, layer.digest), [0, 1, 2, 3, 4, 5])
})

test('scrub looks into borrowed files, and leaves them alone', async (t) => {
  const { store, layer, dir } = await setUp(t)
  const odd = await layerOf(dir, 'odd', randomBytes(MIB + 1234))
  await borrow(store, layer)
  await borrow(store, odd)
  await putBlob(store, blobNamed('own'), 2, 3000)
  await store.keep(layer.digest, [2 * MIB])
  for (const { digest } of [layer, odd])
    for (const { cid } of await store.segments(digest)) await store.read(cid)
  const { dropped, damaged } = hear(store)
  const progress: number[] = []
  const options = { bytesPerSecond: 1e12, signal }
  const clean = await store.scrub({ ...options, onProgress: ({ total }) => progress.push(total) })
  const total = 4 * MIB + 1234 + 6000
  assert.deepEqual(clean, { blocks: 7, bytes: total, bad: 0 })
  assert.deepEqual(new Set(progress), new Set([total]))

  const harmed = Buffer.from(layer.bytes)
  harmed.write('rot', MIB + 5)
  await writeFile(layer.path, harmed)
  assert.equal((await scrub(store)).bad, 1)
  assert.deepEqual(dropped, [[layer.digest, [MIB]]])
  assert.deepEqual(
    damaged.map(([blob, offsets]) => [blob.digest, blob.complete, blob.bytesKept, offsets]),
    [[layer.digest, true, MIB, [MIB]]],
  )
  assert.ok((await readFile(layer.path)).equals(harmed))
  assert.equal((await scrub(store)).bad, 0)

  // It is refetched, as a block of its own; the rest stays where it is.
  await put(store, layer, [1])
  assert.equal((await store.blob(layer.digest))?.bytesKept, MIB)
  assert.equal(store.usage().borrowed, 2 * MIB + 1234)
})

test('scrub gives back what lies in a file that is gone, and does not call it bad', async (t) => {
  const { store, layer, dir } = await setUp(t)
  const shared = await layerOf(dir, 'shared', Buffer.concat([layer.bytes.subarray(0, MIB), randomBytes(50)]))
  await borrow(store, layer)
  await borrow(store, shared)
  await store.keep(layer.digest, [2 * MIB])
  await rename(layer.path, `${layer.path}.away`)
  const { dropped, damaged } = hear(store)
  assert.equal((await scrub(store)).bad, 0)
  assert.deepEqual(damaged, [])
  assert.deepEqual(
    dropped.map(([digest, offsets]) => [digest, offsets]),
    [[layer.digest, [MIB]]],
    'the first block lies in the other file now',
  )
  assert.deepEqual(await indexesOf(store, layer.digest), [0, 2])
  assert.equal((await store.blob(layer.digest))?.bytesKept, MIB)
  assert.ok((await store.read(cidOf(layer.bytes.subarray(0, MIB)))).equals(layer.bytes.subarray(0, MIB)))
  assert.equal(store.usage().borrowed, MIB + 50)
})

test('a read that finds the file gone takes the block from another file that has it', async (t) => {
  const { store, layer, dir } = await setUp(t)
  const shared = await layerOf(dir, 'shared', Buffer.concat([layer.bytes.subarray(0, MIB), randomBytes(50)]))
  await borrow(store, layer)
  await borrow(store, shared)
  await rm(layer.path)
  const { damaged } = hear(store)
  const first = layer.bytes.subarray(0, MIB)
  assert.ok((await store.read(cidOf(first))).equals(first))
  assert.deepEqual(await indexesOf(store, layer.digest), [0])
  assert.deepEqual(damaged, [])
})
