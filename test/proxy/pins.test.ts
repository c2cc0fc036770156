import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type Digest, digestOf, silentLog } from '../../base/index.ts'
import { openBlockStore } from '../../blockstore/index.ts'
import type { Member } from '../../manager/types.ts'
import { createImages } from '../../proxy/images.ts'
import { createLocalRepository } from '../../proxy/local/index.ts'
import { createPins } from '../../proxy/pins.ts'
import { tagRecords } from '../../proxy/registry/tags.ts'
import { createRecordsTwin } from '../manager/records-twin.ts'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const LAYER = 'application/vnd.oci.image.layer.v1.tar'
const named = (name: string): Digest => digestOf(Buffer.from(name))
const REDIS = { host: 'docker.io', repository: 'library/redis' }

async function setUp(t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-pins-'))
  const store = await openBlockStore({ dir })
  t.after(async () => {
    await store.close()
    await rm(dir, { recursive: true })
  })
  const records = createRecordsTwin().join('node')
  const self: Member = { id: 'node', name: 'node', site: 's', addrs: [], state: 'alive', incarnation: 0 }
  const images = createImages({
    store,
    local: createLocalRepository({ records, members: { list: () => [], self }, copies: 1 }),
  })
  const make = () => createPins({ store, images, defaultHost: 'docker.io', log: silentLog() })
  /** An image of layers of that name; what is here of it is its manifest and the layers. */
  async function add(tag: string, name: string, layers: string[]): Promise<Digest> {
    const digest = named(name)
    const entries = layers.map((layer) => ({ digest: named(layer), size: layer.length, mediaType: LAYER }))
    const manifest = { mediaType: MANIFEST, layers: entries, manifests: [] }
    await images.note(REDIS, digest, manifest as never, name.length)
    for (const part of [name, ...layers])
      await store.putSegment(named(part), { offset: 0 }, Buffer.from(part))
    const tags = tagRecords(store)
    await tags.put(`docker.io/library/redis:${tag}`, { digest, mediaType: MANIFEST } as never)
    return digest
  }
  const pinned = async (...names: string[]): Promise<boolean[]> =>
    Promise.all(names.map(async (name) => (await store.blob(named(name)))?.pinned === true))
  return { store, images, make, add, pinned }
}

test('a layer stays pinned while any pinned image has it', async (t) => {
  const { make, add, pinned } = await setUp(t)
  await add('7', 'seven', ['base', 'top 7'])
  await add('8', 'eight', ['base', 'top 8'])
  const pins = make()
  const image = await pins.pin('redis:7')
  assert.deepEqual([image.name, image.pinned], ['docker.io/library/redis:7', true])
  await pins.pin('docker.io/library/redis:8')
  assert.deepEqual(await pinned('seven', 'eight', 'base', 'top 7', 'top 8'), [true, true, true, true, true])
  assert.equal(await pins.unpin('redis:7'), true)
  assert.deepEqual(await pinned('seven', 'eight', 'base', 'top 7', 'top 8'), [false, true, true, false, true])
  assert.deepEqual(
    (await pins.list()).map((one) => [one.tag, one.pinned]),
    [
      ['7', false],
      ['8', true],
    ],
  )
  assert.equal(await pins.unpin('redis:7'), false)
  assert.equal(await pins.unpin(`redis@${named('eight')}`), true)
  assert.deepEqual(await pinned('base', 'eight'), [false, false])
  await assert.rejects(pins.pin('redis:9'), { code: 'NOT_FOUND' })
  await assert.rejects(pins.pin('NO NAME'), { code: 'NAME_INVALID' })
})

test('a tag that moved on is not pinned until it is pinned again, which lets go of what it was', async (t) => {
  const { make, add, pinned } = await setUp(t)
  await add('7', 'old', ['base', 'old top'])
  const pins = make()
  await pins.pin('redis:7')
  await add('7', 'new', ['base', 'new top'])
  assert.equal((await pins.list()).find(({ tag }) => tag === '7')?.pinned, false)
  await pins.pin('redis:7')
  assert.deepEqual(await pinned('old', 'old top', 'base', 'new', 'new top'), [false, false, true, true, true])
})

test('what a crash cut short is made good at the next start', async (t) => {
  const { store, make, add, pinned } = await setUp(t)
  await add('7', 'seven', ['base'])
  await make().pin('redis:7')
  await store.pin(named('base'), false)
  const again = make()
  await again.pin('redis:7')
  assert.deepEqual(await pinned('seven', 'base'), [true, true])
  await store.pin(named('base'), false)
  assert.equal(await make().unpin('redis:none'), false)
  assert.deepEqual(await pinned('seven', 'base'), [true, true])
})

test('the repository of a blob is found by the manifests that name it', async (t) => {
  const { images, add } = await setUp(t)
  await add('7', 'seven', ['base'])
  assert.deepEqual(await images.placeOf(named('base')), { ref: REDIS, kind: 'blobs' })
  assert.deepEqual(await images.placeOf(named('seven')), { ref: REDIS, kind: 'manifests' })
  assert.equal(await images.placeOf(named('none')), undefined)
})
