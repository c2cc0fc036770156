import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { ShoalError } from '../../base/index.ts'
import {
  assertRefused,
  bytesOf,
  describe as described,
  fakeStoring,
  LAYER,
  OCI_INDEX,
  OCI_MANIFEST,
  pushBlob,
  pushImage,
  pushNode,
  putManifest,
} from './push-tools.ts'
import { eventually, type Node } from './registry-tools.ts'
import { createSite } from './stand-in.ts'

const NAME = 'local/app'

/** What is still to be stored, by the node's own list. */
async function pendingOf(node: Node): Promise<string[]> {
  const names: string[] = []
  for await (const [name] of node.store.records('push.pending').entries()) names.push(name)
  return names
}

describe('under quorum', () => {
  test('a push is acknowledged when all of the image has its copies, and not before', async (t) => {
    const fake = fakeStoring()
    const gate = Promise.withResolvers<void>()
    const node = await pushNode(t, { push: { storing: fake.storing }, config: { localCopies: 3 } })
    fake.gate = gate.promise
    let acknowledged = false
    const pushing = pushImage(node, NAME, 'v1').then((image) => {
      acknowledged = true
      return image
    })
    await eventually('it is being stored', () => fake.asked === 1)
    assertRefused(await node.get(`/v2/${NAME}/manifests/v1`), 404, 'MANIFEST_UNKNOWN')
    assert.equal(acknowledged, false)
    gate.resolve()
    const image = await pushing
    const stored = fake.stored.get(`${NAME}@${image.digest}`)
    assert.equal(stored?.copies, 3)
    assert.equal(stored?.digest, image.digest)
    const sizes = [image.bytes, image.config, image.layer].map((bytes) => {
      const { digest, size } = described(bytes, '')
      return { digest, size }
    })
    const byDigest = (a: { digest: string }, b: { digest: string }) => (a.digest < b.digest ? -1 : 1)
    assert.deepEqual([...(stored?.blobs ?? [])].sort(byDigest), sizes.sort(byDigest))
    assert.deepEqual(await pendingOf(node), [])
  })

  test('an index is stored with all that it needs', async (t) => {
    const fake = fakeStoring()
    const node = await pushNode(t, { push: { storing: fake.storing } })
    const image = await pushImage(node, NAME)
    const index = { schemaVersion: 2, manifests: [described(image.bytes, OCI_MANIFEST)] }
    const answer = await putManifest(node, NAME, 'all', index, OCI_INDEX)
    const stored = fake.stored.get(`${NAME}@${answer.headers['docker-content-digest']}`)
    assert.equal(stored?.blobs.length, 4)
  })

  test('without its copies it is refused, and nothing is kept of it; a push of it later goes through', async (t) => {
    const fake = fakeStoring()
    const node = await pushNode(t, { push: { storing: fake.storing } })
    const image = await pushImage(node, 'local/first')
    fake.fails = new ShoalError('NO_QUORUM', '1 of 2 nodes took its share')
    const again = () => putManifest(node, 'local/first', 'v1', { ...image.manifest, annotations: {} })
    const refused = await again()
    assertRefused(refused, 503, 'UNAVAILABLE')
    assert.ok(refused.headers['retry-after'])
    assertRefused(await node.get('/v2/local/first/manifests/v1'), 404, 'MANIFEST_UNKNOWN')
    assert.deepEqual(await pendingOf(node), [])
    fake.fails = undefined
    assert.equal((await again()).status, 201)
  })

  test('a push that fails takes nothing from one that was acknowledged', async (t) => {
    const fake = fakeStoring()
    const node = await pushNode(t, { push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    fake.fails = new ShoalError('NO_QUORUM', 'too few')
    assertRefused(await putManifest(node, NAME, 'v2', image.bytes), 503, 'UNAVAILABLE')
    assert.ok(fake.stored.has(`${NAME}@${image.digest}`))
    assert.deepEqual((await node.get(`/v2/${NAME}/manifests/v1`)).body, image.bytes)
  })

  test('records without their copies are no acknowledgement either', async (t) => {
    const site = createSite()
    site.records.nodes = 2
    site.records.alive = 2
    const fake = fakeStoring()
    const node = await pushNode(t, { site, push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    site.records.alive = 1
    const answer = await putManifest(node, NAME, 'v2', { ...image.manifest, annotations: {} })
    assertRefused(answer, 503, 'UNAVAILABLE')
    assertRefused(await putManifest(node, NAME, 'v2', image.bytes), 503, 'UNAVAILABLE')
    assertRefused(await node.get(`/v2/${NAME}/manifests/v1`, {}, 'DELETE'), 503, 'UNAVAILABLE')
    assert.equal((await node.get(`/v2/${NAME}/manifests/v1`)).status, 200)
  })

  test('a deletion waits for a push of the same manifest, so that what is acknowledged is kept', async (t) => {
    const fake = fakeStoring()
    const node = await pushNode(t, { push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    const gate = Promise.withResolvers<void>()
    fake.gate = gate.promise
    const path = `/v2/${NAME}/manifests/${image.digest}`
    const pushing = putManifest(node, NAME, image.digest, image.bytes)
    await eventually('it is being copied', () => fake.asked === 2)
    let deleted = false
    const deleting = node.get(path, {}, 'DELETE').finally(() => {
      deleted = true
    })
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.equal(deleted, false)
    gate.resolve()
    assert.equal((await pushing).status, 201)
    assert.equal((await deleting).status, 202)
    assert.equal((await node.get(path)).status, 404)
    assert.equal(fake.stored.size, 0)
  })

  test('deleting a manifest lets the site forget it', async (t) => {
    const fake = fakeStoring()
    const node = await pushNode(t, { push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    await node.get(`/v2/${NAME}/manifests/v1`, {}, 'DELETE')
    assert.equal(fake.stored.size, 1)
    await node.get(`/v2/${NAME}/manifests/${image.digest}`, {}, 'DELETE')
    assert.equal(fake.stored.size, 0)
  })
})

describe('under local-first', () => {
  const config = { localAck: 'local-first' } as const

  test('a push is acknowledged when it is whole here, even by a node that is cut off; copies follow', async (t) => {
    const site = createSite()
    site.records.nodes = 3
    site.records.alive = 1
    const fake = fakeStoring()
    const gate = Promise.withResolvers<void>()
    fake.gate = gate.promise
    const node = await pushNode(t, { site, config, push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    assert.deepEqual((await node.get(`/v2/${NAME}/manifests/v1`)).body, image.bytes)
    assert.deepEqual(await pendingOf(node), [`${NAME}@${image.digest}`])
    gate.resolve()
    await eventually('it has its copies', async () => (await pendingOf(node)).length === 0)
    assert.ok(fake.stored.has(`${NAME}@${image.digest}`))
  })

  test('what is deleted on another node before it has its copies is not kept', async (t) => {
    const site = createSite()
    const fake = fakeStoring()
    const gate = Promise.withResolvers<void>()
    fake.gate = gate.promise
    const node = await pushNode(t, { site, config, push: { storing: fake.storing } })
    const other = await pushNode(t, { site, id: 'other', push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    await eventually('it is being copied', () => fake.asked === 1)
    const path = `/v2/${NAME}/manifests/${image.digest}`
    assert.equal((await other.get(path, {}, 'DELETE')).status, 202)
    gate.resolve()
    await eventually('it is done', async () => (await pendingOf(node)).length === 0)
    await eventually('nothing is kept', () => fake.stored.size === 0)
  })

  test('what lay in a borrowed file has own files when the push is acknowledged', async (t) => {
    const fake = fakeStoring()
    fake.fails = new ShoalError('NO_QUORUM', 'nobody there')
    const node = await pushNode(t, { config, push: { storing: fake.storing } })
    const layer = bytesOf(5000)
    const { digest } = described(layer, '')
    const path = join(node.dir, 'layer')
    await writeFile(path, layer)
    const sign = () => ({ seeder: 'me', signature: Buffer.from('signed') })
    const { signal } = new AbortController()
    const borrow = () => node.store.borrow(digest, path, { sign, signal })
    assert.equal(await borrow(), true)
    await pushBlob(node, NAME, layer)
    const { manifest } = await pushImage(node, NAME)
    assert.equal(node.store.usage().borrowed, layer.length)
    const layers = [described(layer, LAYER)]
    assert.equal((await putManifest(node, NAME, 'v1', { ...manifest, layers })).status, 201)
    assert.equal(node.store.usage().borrowed, 0)
    await assert.rejects(borrow(), { code: 'BUSY' })
    await rm(path)
    await node.store.giveBack(digest)
    assert.equal((await node.store.blob(digest))?.complete, true)
    const [segment] = await node.store.segments(digest)
    assert.ok((await node.store.read(segment!.cid)).equals(layer))
  })

  test('what was not copied when the node ended is copied after its start; what was not acknowledged is forgotten', async (t) => {
    const site = createSite()
    const fake = fakeStoring()
    fake.fails = new ShoalError('NO_QUORUM', 'nobody there')
    const first = await pushNode(t, { site, config, push: { storing: fake.storing } })
    const image = await pushImage(first, NAME, 'v1')
    await first.store.records('push.pending').put('local/app@half', { digest: image.digest, blobs: [] })
    const { dir } = first
    await first.stop()
    fake.fails = undefined
    const second = await pushNode(t, { site, dir, config, push: { storing: fake.storing } })
    await eventually('it has its copies', async () => (await pendingOf(second)).length === 0)
    assert.deepEqual([...fake.stored.keys()], [`${NAME}@${image.digest}`])
  })

  test('what has no copies yet is not evicted', async (t) => {
    const fake = fakeStoring()
    fake.fails = new ShoalError('NO_QUORUM', 'nobody there')
    const node = await pushNode(t, { config, quota: 4 * 2 ** 20, push: { storing: fake.storing } })
    const image = await pushImage(node, NAME, 'v1')
    await node.store.collect()
    for (let i = 0; i < 5; i++) {
      const other = described(Buffer.from(`other ${i}`), '').digest
      await node.store.putSegment(other, { offset: 0 }, Buffer.alloc(2 ** 20, i))
    }
    for (const bytes of [image.bytes, image.config, image.layer]) {
      assert.equal((await node.store.blob(described(bytes, '').digest))?.complete, true)
    }
  })
})
