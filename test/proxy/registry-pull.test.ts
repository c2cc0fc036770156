import assert from 'node:assert/strict'
import { test } from 'node:test'
import { listImages, type PartProgress, parsePlatform, pullImage } from '../../proxy/index.ts'
import { node } from './registry-tools.ts'
import { createSite } from './stand-in.ts'
import { fake } from './upstream-tools.ts'

const signal = new AbortController().signal
const amd64 = parsePlatform('linux/amd64')
const arm64 = parsePlatform('linux/arm64')

test('an image is pulled to the last part, from upstream and then from a neighbour', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({
    repository: 'library/app',
    layers: [50_000, 200_000, 300, 70_000, 8000],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const site = createSite()
  const one = await node(t, registry, { site, id: 'one' })
  const heard: PartProgress[] = []
  const first = await pullImage({
    parts: one.proxy.parts,
    reference: 'app',
    platform: arm64,
    signal,
    onProgress: (part) => heard.push(part),
  })
  const chosen = image.manifests[1]
  assert.equal(first.name, 'docker.io/library/app:latest')
  assert.equal(first.digest, image.digest)
  assert.equal(first.manifest, chosen?.manifestDigest)
  assert.equal(first.platform, 'linux/arm64')
  assert.deepEqual(
    first.parts.map(({ digest, kind, complete }) => [digest, kind, complete]),
    [[chosen?.configDigest, 'config', true], ...image.layerDigests.map((digest) => [digest, 'layer', true])],
  )
  for (const { size, done, sources } of first.parts) {
    assert.deepEqual([size, sources], [done, { local: 0, peers: 0, upstream: size }])
  }
  assert.equal(first.sources.upstream, first.size)
  for (const { digest, size } of first.parts) {
    const last = heard.findLast((part) => part.digest === digest)
    assert.deepEqual([last?.complete, last?.done], [true, size])
    assert.ok(await one.store.blob(digest))
  }
  assert.ok(one.manager.opened.every(({ priority }) => priority === 'preheat'))
  assert.equal(one.manager.openings(), 0)

  const two = await node(t, registry, { site, id: 'two' })
  const second = await pullImage({ parts: two.proxy.parts, reference: 'app', platform: arm64, signal })
  assert.deepEqual(second.sources, { local: 0, peers: second.size, upstream: 0 })
  const third = await pullImage({ parts: two.proxy.parts, reference: 'app', platform: arm64, signal })
  assert.deepEqual(third.sources, { local: third.size, peers: 0, upstream: 0 })
  const exact = await pullImage({
    parts: two.proxy.parts,
    reference: `docker.io/app:any@${image.manifestDigest}`,
    signal,
  })
  assert.deepEqual([exact.digest, exact.manifest], [image.manifestDigest, image.manifestDigest])
})

test('an index of plain blobs is pulled as a whole, layers from elsewhere are left out', async (t) => {
  const registry = await fake(t)
  const type = 'application/vnd.containerd.container.criu.checkpoint.criu.tar'
  const entries = ['images', 'layer'].map((text) => {
    const digest = registry.addBlob('a/frozen', Buffer.from(text))
    return { mediaType: type, digest, size: text.length }
  })
  const mediaType = 'application/vnd.oci.image.index.v1+json'
  registry.addManifest('a/frozen', { schemaVersion: 2, mediaType, manifests: entries }, { tag: 'one' })
  const foreign = {
    mediaType: 'x/y',
    digest: `sha256:${'0'.repeat(64)}`,
    size: 5,
    urls: ['https://elsewhere.test/'],
  }
  registry.addManifest(
    'a/frozen',
    { schemaVersion: 2, config: entries[0], layers: [entries[1], foreign] },
    { tag: 'two' },
  )
  const here = await node(t, registry)
  const pull = (reference: string) => pullImage({ parts: here.proxy.parts, reference, signal })
  const frozen = await pull('a/frozen:one')
  assert.deepEqual([frozen.manifest, frozen.parts.map(({ kind }) => kind)], [undefined, ['blob', 'blob']])
  assert.deepEqual(
    (await pull('a/frozen:two')).parts.map(({ kind }) => kind),
    ['config', 'layer'],
  )
  assert.equal(here.manager.openings(), 0)
})

test('what cannot be pulled is said, and nothing stays open', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({
    repository: 'a/b',
    layers: [5000, 6000],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const here = await node(t, registry)
  const pull = (reference: string, more: object = {}): Promise<unknown> =>
    pullImage({ parts: here.proxy.parts, reference, platform: amd64, signal, ...more })
  await assert.rejects(pull('a/b:none'), { code: 'NOT_FOUND' })
  await assert.rejects(pull('A/b'), { code: 'NAME_INVALID' })
  await assert.rejects(pull('a/b', { platform: parsePlatform('s390x') }), {
    code: 'NOT_FOUND',
    message: /linux\/s390x/,
  })
  const clear = registry.fault({ path: new RegExp(String(image.layerDigests[1])), method: 'GET', corrupt: 1 })
  await assert.rejects(pull('a/b'), { code: 'DIGEST_MISMATCH' })
  clear()
  registry.fault({ path: new RegExp(String(image.layerDigests[1])), method: 'GET', stall: 10 })
  const stop = new AbortController()
  await assert.rejects(pull('a/b', { signal: stop.signal, onProgress: () => stop.abort() }), {
    code: 'ABORTED',
  })
  assert.equal(here.manager.openings(), 0)
})

test('images that came through are listed with what of them is here', async (t) => {
  const registry = await fake(t)
  const app = registry.addImage({
    repository: 'library/app',
    layers: [50_000],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const tool = registry.addImage({ repository: 'team/tool', tag: 'v1', layers: [9000, 8000] })
  registry.addImage({ repository: 'team/tool', tag: 'v2', layers: [9000] })
  const here = await node(t, registry)
  await pullImage({ parts: here.proxy.parts, reference: 'app', platform: amd64, signal })
  await here.get(`/v2/registry.test/team/tool/manifests/${tool.digest}`)
  await here.get(`/v2/registry.test/team/tool/blobs/${tool.layerDigests[0]}`)
  await here.get('/v2/team/tool/manifests/v2', {}, 'HEAD')
  const images = await listImages(here.proxy.parts)
  assert.deepEqual(
    images.map(({ name, platforms }) => [name, platforms]),
    [
      ['docker.io/library/app:latest', ['linux/amd64']],
      [`registry.test/team/tool@${tool.digest}`, []],
    ],
    'what was only looked at is no image here',
  )
  const [first, second] = images
  assert.equal(first?.size, first?.bytesHere)
  assert.deepEqual(first?.layers, app.layerDigests)
  assert.equal(second?.size, tool.size)
  assert.ok(second && second.bytesHere > 9000 && second.bytesHere < second.size)
  await here.get('/v2/registry.test/team/tool/manifests/v1', {}, 'HEAD')
  assert.deepEqual(
    (await listImages(here.proxy.parts)).map(({ name }) => name),
    ['docker.io/library/app:latest', 'registry.test/team/tool:v1'],
    'a tag names it now',
  )
})
