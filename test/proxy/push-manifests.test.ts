import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { digestOf } from '../../base/index.ts'
import {
  assertRefused,
  bytesOf,
  CONFIG,
  describe as described,
  LAYER,
  OCI_INDEX,
  OCI_MANIFEST,
  pushBlob,
  pushImage,
  pushNode,
  putManifest,
} from './push-tools.ts'

const NAME = 'local/app'

describe('manifests are pushed', () => {
  test('by tag and by digest, and come back byte for byte with their type', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    for (const reference of ['v1', image.digest]) {
      const path = `/v2/${NAME}/manifests/${reference}`
      const got = await node.get(path)
      assert.equal(got.status, 200)
      assert.deepEqual(got.body, image.bytes)
      assert.equal(got.headers['content-type'], OCI_MANIFEST)
      assert.equal(got.headers['docker-content-digest'], image.digest)
      const head = await node.get(path, {}, 'HEAD')
      assert.equal(head.headers['content-length'], String(image.bytes.length))
    }
    const again = await putManifest(node, NAME, image.digest, image.bytes)
    assert.equal(again.status, 201)
    assert.equal(again.headers.location, `/v2/${NAME}/manifests/${image.digest}`)
    assert.equal(again.headers['docker-content-digest'], image.digest)
    const sha512 = digestOf(image.bytes, 'sha512')
    assert.equal((await putManifest(node, NAME, sha512, image.bytes)).status, 201)
    assert.deepEqual((await node.get(`/v2/${NAME}/manifests/${sha512}`)).body, image.bytes)
  })

  test('a tag moves at once, and the old manifest stays', async (t) => {
    const node = await pushNode(t)
    const first = await pushImage(node, NAME, 'v1')
    assert.deepEqual((await node.get(`/v2/${NAME}/manifests/v1`)).body, first.bytes)
    const second = await pushImage(node, NAME, 'v1')
    assert.deepEqual((await node.get(`/v2/${NAME}/manifests/v1`)).body, second.bytes)
    assert.deepEqual((await node.get(`/v2/${NAME}/manifests/${first.digest}`)).body, first.bytes)
  })

  test('an index of images and of plain blobs', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME)
    const blob = bytesOf(500)
    const index = {
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [described(image.bytes, OCI_MANIFEST), described(blob, 'application/x-state')],
    }
    assertRefused(await putManifest(node, NAME, 'all', index, OCI_INDEX), 404, 'MANIFEST_BLOB_UNKNOWN')
    await pushBlob(node, NAME, blob)
    assert.equal((await putManifest(node, NAME, 'all', index, OCI_INDEX)).status, 201)
    assertRefused(
      await putManifest(node, 'local/other', 'all', index, OCI_INDEX),
      404,
      'MANIFEST_BLOB_UNKNOWN',
    )
  })

  test('what it names has to be in this repository, in its size', async (t) => {
    const node = await pushNode(t)
    const { manifest, config } = await pushImage(node, NAME, 'v1')
    const missing = { ...manifest, layers: [described(bytesOf(10), LAYER)] }
    assertRefused(await putManifest(node, NAME, 'bad', missing), 404, 'MANIFEST_BLOB_UNKNOWN')
    const lie = { ...manifest, config: { ...described(config, CONFIG), size: 5 } }
    assertRefused(await putManifest(node, NAME, 'bad', lie), 400, 'MANIFEST_INVALID')
    assertRefused(await putManifest(node, 'local/b', 'v1', manifest), 404, 'MANIFEST_BLOB_UNKNOWN')
    assertRefused(await node.get(`/v2/${NAME}/manifests/bad`), 404, 'MANIFEST_UNKNOWN')
    // A layer that only its publisher hands out is not pushed.
    const foreign = { ...described(bytesOf(10), LAYER), urls: ['https://example.test/layer'] }
    const windows = { ...manifest, layers: [foreign] }
    assert.equal((await putManifest(node, NAME, 'windows', windows)).status, 201)
  })

  test('what is no manifest is refused', async (t) => {
    const node = await pushNode(t)
    const { manifest, bytes, digest } = await pushImage(node, NAME, 'v1')
    const refused = async (body: object | Buffer, type?: string, code = 'MANIFEST_INVALID') =>
      assertRefused(await putManifest(node, NAME, 'bad', body, type), 400, code)
    await refused(Buffer.from('{'))
    await refused(Buffer.from([0x7b, 0xff, 0x7d]))
    await refused(Buffer.from('[]'))
    await refused(Buffer.from(`{"a":${'['.repeat(2e6)}${']'.repeat(2e6)}}`))
    await refused({})
    await refused({ ...manifest, schemaVersion: 1 })
    await refused({ ...manifest, layers: 'none' })
    await refused({ ...manifest, layers: [{ digest: 'sha256:short', size: 1, mediaType: LAYER }] })
    await refused({ ...manifest, layers: [{ digest, size: -1, mediaType: LAYER }] })
    await refused({ ...manifest, config: undefined })
    await refused({ ...manifest, annotations: { a: 1 } })
    const subject = described(Buffer.alloc(0), OCI_MANIFEST)
    await refused({ ...manifest, subject, annotations: { a: 'x'.repeat(20_000) } })
    await refused({ ...manifest, manifests: [] })
    await refused({ ...manifest, subject: 'sha256:0' })
    await refused({ ...manifest, layers: Array.from({ length: 2000 }, () => described(bytes, LAYER)) })
    await refused(bytes, OCI_INDEX)
    await refused(bytes, 'text/plain')
    await refused({ schemaVersion: 1, fsLayers: [] }, 'application/vnd.docker.distribution.manifest.v1+json')
    const other = digestOf(Buffer.from('other'))
    assertRefused(await putManifest(node, NAME, other, bytes), 400, 'DIGEST_INVALID')
    assertRefused(await putManifest(node, NAME, 'sha256:abc', bytes), 400, 'DIGEST_INVALID')
    assertRefused(await putManifest(node, NAME, '-bad-tag', bytes), 404, 'NAME_UNKNOWN')
  })

  test('an index of more blobs than a record has room for is refused', async (t) => {
    const node = await pushNode(t)
    const { local } = node.proxy.parts
    const manifests = []
    for (const half of ['a', 'b']) {
      const { bytes, digest } = await pushImage(node, NAME, half)
      manifests.push(described(bytes, OCI_MANIFEST))
      const record = await local.manifest('app', digest)
      assert.ok(record)
      const parts = Array.from({ length: 725 }, (_, i) => ({
        digest: digestOf(Buffer.from(half + i)),
        size: 1,
      }))
      await local.putManifest('app', digest, { ...record, parts }, AbortSignal.timeout(5000))
    }
    const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests }
    assertRefused(await putManifest(node, NAME, 'all', index, OCI_INDEX), 400, 'MANIFEST_INVALID')
  })

  test('one of up to 4 MiB, no more', async (t) => {
    const node = await pushNode(t)
    const { manifest } = await pushImage(node, NAME, 'v1')
    const padded = (size: number) => {
      const text = JSON.stringify({ ...manifest, padding: '' })
      return Buffer.from(JSON.stringify({ ...manifest, padding: 'x'.repeat(size - text.length) }))
    }
    const annotations = { 'org.example.much': 'x'.repeat(2 ** 20) }
    assert.equal((await putManifest(node, NAME, 'annotated', { ...manifest, annotations })).status, 201)
    const most = 4 * 2 ** 20
    assert.equal((await putManifest(node, NAME, 'large', padded(most))).status, 201)
    assertRefused(await putManifest(node, NAME, 'larger', padded(most + 1)), 413, 'SIZE_INVALID')
    const chunked = { 'Content-Type': OCI_MANIFEST, 'Transfer-Encoding': 'chunked' }
    const answer = await node.get(`/v2/${NAME}/manifests/larger`, chunked, 'PUT', padded(most + 1))
    assertRefused(answer, 413, 'SIZE_INVALID')
  })

  test('with a subject that need not be there', async (t) => {
    const node = await pushNode(t)
    const { manifest } = await pushImage(node, NAME, 'v1')
    const subject = described(bytesOf(10), OCI_MANIFEST)
    const answer = await putManifest(node, NAME, 'signed', { ...manifest, subject })
    assert.equal(answer.status, 201)
    assert.equal(answer.headers['oci-subject'], subject.digest)
  })
})

describe('what was pushed is deleted', () => {
  test('a tag: the manifest stays', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    assert.equal((await node.get(`/v2/${NAME}/manifests/v1`, {}, 'DELETE')).status, 202)
    assertRefused(await node.get(`/v2/${NAME}/manifests/v1`), 404, 'MANIFEST_UNKNOWN')
    assertRefused(await node.get(`/v2/${NAME}/manifests/v1`, {}, 'DELETE'), 404, 'MANIFEST_UNKNOWN')
    assert.equal((await node.get(`/v2/${NAME}/manifests/${image.digest}`)).status, 200)
    assert.deepEqual((await node.get(`/v2/${NAME}/tags/list`)).json().tags, [])
  })

  test('a manifest with all its tags', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    await putManifest(node, NAME, 'latest', image.bytes)
    const other = await pushImage(node, NAME, 'v2')
    const path = `/v2/${NAME}/manifests/${image.digest}`
    assert.equal((await node.get(path, {}, 'DELETE')).status, 202)
    for (const gone of [path, `/v2/${NAME}/manifests/v1`, `/v2/${NAME}/manifests/latest`]) {
      assertRefused(await node.get(gone), 404, 'MANIFEST_UNKNOWN')
    }
    assertRefused(await node.get(path, {}, 'DELETE'), 404, 'MANIFEST_UNKNOWN')
    assert.deepEqual((await node.get(`/v2/${NAME}/tags/list`)).json().tags, ['v2'])
    assert.equal((await node.get(`/v2/${NAME}/manifests/${other.digest}`)).status, 200)
    const names = (await node.proxy.parts.images.list()).map(({ name }) => name)
    assert.deepEqual(names, [`${NAME}:v2`])
    // It can be pushed again.
    assert.equal((await putManifest(node, NAME, 'v1', image.bytes)).status, 201)
    assert.deepEqual((await node.get(path)).body, image.bytes)
  })

  test('a blob, in this repository only', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(100)
    const digest = await pushBlob(node, NAME, bytes)
    await pushBlob(node, 'local/b', bytes)
    assert.equal((await node.get(`/v2/${NAME}/blobs/${digest}`, {}, 'DELETE')).status, 202)
    assertRefused(await node.get(`/v2/${NAME}/blobs/${digest}`), 404, 'BLOB_UNKNOWN')
    assertRefused(await node.get(`/v2/${NAME}/blobs/${digest}`, {}, 'DELETE'), 404, 'BLOB_UNKNOWN')
    assert.equal((await node.get(`/v2/local/b/blobs/${digest}`)).status, 200)
  })
})
