import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf, ShoalError } from '../../base/index.ts'
import { createTokenGuard } from '../../cli/api/index.ts'
import { type Hosted, parseReference } from '../../proxy/index.ts'
import { codeOf, node } from './registry-tools.ts'
import { fake } from './upstream-tools.ts'

const TOKEN = 'the-token'
const BYTES = Buffer.from('what is in the memory of somebody')
const DIGEST = digestOf(BYTES)
const INDEX = Buffer.from('{"schemaVersion":2,"manifests":[]}')
const TYPE = 'application/vnd.oci.image.index.v1+json'

function content(of: { host: string; repository: string }): Hosted {
  return {
    async manifest(name, reference) {
      if (name === 'sealed') throw new ShoalError('DENIED', 'not sealed for this node')
      if (name !== 'redis') return undefined
      if (reference === '1' || reference === digestOf(INDEX)) {
        return { digest: digestOf(INDEX), mediaType: TYPE, bytes: INDEX }
      }
      return reference.startsWith('sha256:') ? { of } : undefined
    },
    async blob(name, digest) {
      if (name !== 'redis') return undefined
      if (digest !== DIGEST) return { of }
      return {
        size: BYTES.length,
        mediaType: 'application/x-tar',
        async *read({ start, end }) {
          yield BYTES.subarray(start, end)
        },
      }
    },
    tags: async (name) => (name === 'redis' ? ['1', '2'] : []),
    referrers: async () => [
      { digest: DIGEST, size: 9, mediaType: TYPE, artifactType: 'application/vnd.shoal.checkpoint.v1' },
    ],
    isSecret: async (digest) => digest === DIGEST,
  }
}

const basic = (password: string): { authorization: string } => ({
  authorization: `Basic ${Buffer.from(`anybody:${password}`).toString('base64')}`,
})
const WITH = basic(TOKEN)

test('a pseudo host is for clients with the token, in either form, wherever they are', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({ repository: 'pub/app', layers: [9000], seed: 'a' })
  const here = await node(t, registry)
  assert.equal((await here.get('/v2/checkpoints/redis/manifests/1', WITH)).status, 404)
  here.proxy.host(content({ host: 'registry.test', repository: 'pub/app' }), createTokenGuard(TOKEN))
  const paths = ['manifests/1', `blobs/${DIGEST}`, 'tags/list', `referrers/${DIGEST}`]
  for (const path of paths) {
    for (const headers of [{}, basic('wrong'), { authorization: 'Bearer wrong' }] as Record<
      string,
      string
    >[]) {
      const answer = await here.get(`/v2/checkpoints/redis/${path}`, headers)
      assert.equal(answer.status, 401, path)
      assert.equal(answer.headers['www-authenticate'], 'Basic realm="shoal"')
      assert.equal(codeOf(answer), 'UNAUTHORIZED')
    }
    for (const headers of [WITH, { authorization: `Bearer ${TOKEN}` }]) {
      assert.equal((await here.get(`/v2/checkpoints/redis/${path}`, headers)).status, 200, path)
    }
    assert.equal((await here.get(`/v2/redis/${path}?ns=checkpoints`, WITH)).status, 200, path)
    assert.equal((await here.get(`/v2/redis/${path}?ns=checkpoints`)).status, 401, path)
  }
  const manifest = await here.get('/v2/checkpoints/redis/manifests/1', WITH)
  assert.deepEqual([manifest.headers['content-type'], manifest.body], [TYPE, INDEX])
  const etag = { ...WITH, 'if-none-match': String(manifest.headers.etag) }
  assert.equal((await here.get('/v2/checkpoints/redis/manifests/1', etag)).status, 304)
  const blob = `/v2/checkpoints/redis/blobs/${DIGEST}`
  assert.deepEqual((await here.get(blob, WITH)).body, BYTES)
  const head = await here.get(blob, WITH, 'HEAD')
  assert.deepEqual(
    [head.status, head.headers['content-length'], head.body.length],
    [200, `${BYTES.length}`, 0],
  )
  const part = await here.get(blob, { ...WITH, range: 'bytes=5-9' })
  assert.deepEqual([part.status, part.body], [206, BYTES.subarray(5, 10)])
  assert.equal((await here.get(blob, { ...WITH, range: 'bytes=900-' })).status, 416)
  assert.equal((await here.get('/v2/checkpoints/redis/manifests/9', WITH)).status, 404)
  assert.equal((await here.get('/v2/checkpoints/nothing/tags/list', WITH)).status, 404)
  assert.equal((await here.get('/v2/checkpoints/sealed/manifests/1', WITH)).status, 403)
  const filtered = await here.get(`/v2/checkpoints/redis/referrers/${DIGEST}?artifactType=other`, WITH)
  assert.deepEqual(filtered.json().manifests, [])

  const base = await here.get(`/v2/checkpoints/redis/manifests/${image.digest}`, WITH)
  assert.deepEqual([base.status, digestOf(base.body)], [200, image.digest])
  const layer = await here.get(`/v2/checkpoints/redis/blobs/${image.layerDigests[0]}`, WITH)
  assert.deepEqual([layer.status, digestOf(layer.body)], [200, image.layerDigests[0]])

  for (const [method, path] of [
    ['POST', 'blobs/uploads/'],
    ['PUT', 'manifests/1'],
    ['DELETE', 'manifests/1'],
  ] as const) {
    const { status } = await here.get(`/v2/checkpoints/redis/${path}`, WITH, method, '{}')
    assert.ok(status >= 400 && status < 500, `${method} ${path}: ${status}`)
  }
})

test('a secret blob in the store goes out under no other name, whatever the offline policy says', async (t) => {
  const registry = await fake(t)
  const here = await node(t, registry, { config: { offline: 'open' } })
  await here.manager.ingest({
    digest: DIGEST,
    size: BYTES.length,
    signal: AbortSignal.timeout(10_000),
    async *chunks() {
      yield BYTES
    },
  })
  registry.fault({ path: /./, status: 503 })
  const path = `/v2/registry.test/pub/app/blobs/${DIGEST}`
  assert.equal((await here.get(path)).status, 200, 'an open door gives what is here')
  here.proxy.host(content({ host: 'registry.test', repository: 'pub/app' }), createTokenGuard(TOKEN))
  assert.equal((await here.get(path)).status, 503)
  assert.equal((await here.get(`/v2/local/app/blobs/${DIGEST}`)).status, 404)
})

test('the name of a checkpoint is none of an image', () => {
  assert.throws(() => parseReference('checkpoints/redis:3'), /shoal restore/)
  assert.equal(parseReference('checkpoints').repository, 'library/checkpoints')
  assert.equal(parseReference('docker.io/checkpoints/redis').repository, 'checkpoints/redis')
})
