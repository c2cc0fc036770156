import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import { codeOf, eventually, node } from './registry-tools.ts'
import { createSite } from './stand-in.ts'
import { fake } from './upstream-tools.ts'

const INDEX = 'application/vnd.oci.image.index.v1+json'
const V2S2 = 'application/vnd.docker.distribution.manifest.v2+json'
const heads = (requests: { method: string; url: string }[]): number =>
  requests.filter(({ method, url }) => method === 'HEAD' && url.includes('/manifests/')).length

test('an image is pulled as runtimes do: index, manifest, config, layers', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({
    repository: 'library/app',
    layers: [20_000, 30_000],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const here = await node(t, registry)
  const head = await here.get('/v2/library/app/manifests/latest', {}, 'HEAD')
  assert.equal(head.status, 200)
  assert.equal(head.headers['docker-content-digest'], image.digest)
  assert.equal(head.headers['content-type'], INDEX)
  assert.equal(head.body.length, 0)
  const index = await here.get(`/v2/app/manifests/${image.digest}`)
  assert.deepEqual([index.status, index.headers['content-type']], [200, INDEX])
  assert.equal(head.headers['content-length'], String(index.body.length))
  assert.equal(digestOf(index.body), image.digest)
  const manifest = await here.get(`/v2/app/manifests/${image.manifestDigest}`)
  assert.equal(digestOf(manifest.body), image.manifestDigest)
  assert.equal(manifest.headers['content-type'], 'application/vnd.oci.image.manifest.v1+json')
  for (const digest of [image.configDigest, ...image.layerDigests]) {
    const blob = await here.get(`/v2/app/blobs/${digest}`)
    assert.equal(digestOf(blob.body), digest)
  }
  const before = registry.requests.length
  const again = await here.get('/v2/docker.io/app/manifests/latest')
  assert.equal(again.headers['x-shoal-source'], 'local')
  for (const digest of image.layerDigests) await here.get(`/v2/docker.io/app/blobs/${digest}`)
  assert.equal(registry.requests.length, before, 'all is known by now')
  const same = await here.get('/v2/app/manifests/latest', { 'if-none-match': `"${image.digest}"` })
  assert.equal(same.status, 304)
  assert.equal(here.manager.openings(), 0)
})

test('docker’s types, checkpoints in an index and foreign types come as upstream gave them', async (t) => {
  const registry = await fake(t)
  const docker = registry.addImage({ repository: 'a/docker', layers: [5000], docker: true })
  const here = await node(t, registry)
  const plain = await here.get('/v2/a/docker/manifests/latest')
  assert.equal(plain.headers['content-type'], V2S2)
  assert.equal(digestOf(plain.body), docker.digest)

  const part = registry.addBlob('a/frozen', Buffer.from('criu images'))
  const entry = {
    mediaType: 'application/vnd.containerd.container.criu.checkpoint.criu.tar',
    digest: part,
    size: 11,
  }
  registry.addManifest(
    'a/frozen',
    { schemaVersion: 2, mediaType: INDEX, manifests: [entry] },
    { tag: 'latest' },
  )
  assert.equal((await here.get('/v2/a/frozen/manifests/latest')).headers['content-type'], INDEX)
  assert.equal((await here.get(`/v2/a/frozen/blobs/${part}`)).body.toString(), 'criu images')

  const bare = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [] }))
  registry.addManifest('a/bare', bare, { tag: 'latest', mediaType: 'application/json' })
  assert.equal((await here.get('/v2/a/bare/manifests/latest')).headers['content-type'], INDEX)
  registry.addManifest('a/odd', Buffer.from('no json'), { tag: 'latest', mediaType: 'text/x-odd' })
  const odd = await here.get('/v2/a/odd/manifests/latest')
  assert.deepEqual([odd.headers['content-type'], odd.body.toString()], ['text/x-odd', 'no json'])
})

test('a tag is asked for once by many, and again when its time is over', async (t) => {
  const registry = await fake(t)
  const old = registry.addImage({ repository: 'a/b', layers: [5000], seed: 'old' })
  const here = await node(t, registry, { config: { tagTtlMs: 60_000 } })
  const tag = async (): Promise<unknown> => {
    const { headers } = await here.get('/v2/a/b/manifests/latest')
    return headers['docker-content-digest']
  }
  registry.fault({ path: /manifests/, method: 'HEAD', delay: 100, count: 1 })
  assert.deepEqual(await Promise.all([tag(), tag(), tag(), tag()]), Array(4).fill(old.digest))
  assert.equal(heads(registry.requests), 1)
  const next = registry.addImage({ repository: 'a/b', layers: [5000], seed: 'next' })
  assert.equal(await tag(), old.digest)
  here.clock.ahead += 61_000
  assert.equal(await tag(), next.digest)
  assert.equal(heads(registry.requests), 2)
  // An Accept header that upstream might answer with something else is a question of its own.
  await here.get('/v2/a/b/manifests/latest', { accept: V2S2 })
  assert.equal(heads(registry.requests), 3)
  assert.equal(registry.requests.at(-1)?.headers.accept, V2S2)
})

test('an upstream without HEAD, or without digests in it, is asked with GET', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({ repository: 'a/b', layers: [5000] })
  registry.fault({ path: /manifests/, noDigest: true })
  registry.fault({ path: /blobs/, method: 'HEAD', status: 405 })
  const here = await node(t, registry)
  const answer = await here.get('/v2/a/b/manifests/latest')
  assert.equal(answer.headers['docker-content-digest'], image.digest)
  assert.equal((await here.get(`/v2/a/b/blobs/${image.configDigest}`)).status, 200)
})

test('a manifest of absurd size is refused', async (t) => {
  const registry = await fake(t)
  const huge = registry.addManifest('a/b', Buffer.alloc(4 * 1024 * 1024 + 1, ' '), { tag: 'latest' })
  const here = await node(t, registry)
  for (const reference of ['latest', huge]) {
    const answer = await here.get(`/v2/a/b/manifests/${reference}`)
    assert.deepEqual([answer.status, codeOf(answer)], [502, 'MANIFEST_INVALID'])
  }
  assert.equal(here.manager.openings(), 0)
})

test('while upstream is gone the last known digest is served, over a restart too, and says so', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({ repository: 'a/b', layers: [5000] })
  const first = await node(t, registry)
  await first.get('/v2/a/b/manifests/latest')
  const [config] = [image.configDigest]
  await first.get(`/v2/a/b/blobs/${config}`)
  const contents = new Map(first.manager.contents)
  await first.stop()
  const clear = registry.fault({ path: /./, status: 503 })

  const here = await node(t, registry, { dir: first.dir })
  for (const [digest, bytes] of contents) here.manager.contents.set(digest, bytes)
  here.clock.ahead = 3_600_000
  const stale = await here.get('/v2/a/b/manifests/latest')
  assert.equal(stale.status, 200)
  assert.equal(digestOf(stale.body), image.digest)
  assert.ok(Math.abs(Number(stale.headers['x-shoal-stale']) - 3600) < 60)
  assert.equal(
    (await here.get('/v2/a/b/manifests/latest', {}, 'HEAD')).headers['x-shoal-stale'] !== undefined,
    true,
  )
  assert.equal((await here.get(`/v2/a/b/blobs/${config}`)).status, 200)
  const unknown = await here.get('/v2/a/b/manifests/other')
  assert.deepEqual([unknown.status, codeOf(unknown)], [503, 'UNAVAILABLE'])
  clear()
  const fresh = await here.get('/v2/a/b/manifests/latest')
  assert.equal(fresh.headers['x-shoal-stale'], undefined)
})

test('a neighbour’s knowledge of a tag serves where this node has none', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({
    repository: 'a/b',
    layers: [5000],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const site = createSite()
  const one = await node(t, registry, { site, id: 'one' })
  const two = await node(t, registry, { site, id: 'two' })
  for (const path of [
    'manifests/latest',
    `manifests/${image.manifestDigest}`,
    `blobs/${image.configDigest}`,
  ]) {
    assert.equal((await one.get(`/v2/a/b/${path}`)).status, 200)
  }
  await registry.close()
  const stale = await two.get('/v2/a/b/manifests/latest')
  assert.equal(digestOf(stale.body), image.digest)
  assert.ok(stale.headers['x-shoal-stale'] !== undefined)
  assert.equal(stale.headers['x-shoal-source'], 'peers')
  for (const path of [`manifests/${image.manifestDigest}`, `blobs/${image.configDigest}`]) {
    assert.equal((await two.get(`/v2/a/b/${path}`)).status, 200, path)
  }
  const three = await node(t, registry, { site, id: 'three' })
  assert.equal(
    (await three.get(`/v2/a/b/manifests/${image.digest}`)).status,
    200,
    'by digest, with no tag asked',
  )
  const stranger = await three.get(`/v2/a/b/blobs/${digestOf(Buffer.from('x'))}`)
  assert.equal(stranger.status, 503)
})

test('a tag that upstream deleted is gone here and for neighbours', async (t) => {
  const registry = await fake(t)
  registry.addImage({ repository: 'a/b', layers: [5000] })
  const site = createSite()
  const here = await node(t, registry, { site, id: 'one', config: { tagTtlMs: 0 } })
  assert.equal((await here.get('/v2/a/b/manifests/latest')).status, 200)
  registry.repository('a/b').tags.clear()
  const gone = await here.get('/v2/a/b/manifests/latest')
  assert.deepEqual([gone.status, codeOf(gone)], [404, 'MANIFEST_UNKNOWN'])
  registry.fault({ path: /./, status: 502 })
  assert.equal((await here.get('/v2/a/b/manifests/latest')).status, 503, 'forgotten')
  const two = await node(t, registry, { site, id: 'two' })
  assert.equal((await two.get('/v2/a/b/manifests/latest')).status, 503)
})

test('what a manifest names is checked once with upstream before it is served', async (t) => {
  const registry = await fake(t)
  const secret = registry.addBlob('corp/secret', Buffer.from('not for everybody'))
  const claim = { mediaType: 'application/octet-stream', digest: secret, size: 17 }
  registry.addManifest('evil/claims', { schemaVersion: 2, config: claim, layers: [claim] }, { tag: 'latest' })
  const site = createSite()
  const one = await node(t, registry, { site, id: 'one' })
  const two = await node(t, registry, { site, id: 'two' })
  assert.equal((await one.get(`/v2/corp/secret/blobs/${secret}`)).status, 200)
  for (const here of [one, two]) {
    assert.equal((await here.get('/v2/evil/claims/manifests/latest')).status, 200)
    const answer = await here.get(`/v2/evil/claims/blobs/${secret}`)
    assert.deepEqual([answer.status, codeOf(answer)], [404, 'BLOB_UNKNOWN'])
    await eventually('nothing stays open', () => here.manager.openings() === 0)
  }
  assert.equal((await two.get(`/v2/corp/secret/blobs/${secret as Digest}`)).status, 200)
})
