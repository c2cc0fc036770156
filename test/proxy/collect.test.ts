import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Digest } from '../../base/index.ts'
import { collectImage, parsePlatform, storedName } from '../../proxy/index.ts'
import { node } from './registry-tools.ts'
import { fake } from './upstream-tools.ts'

const signal = new AbortController().signal

test('an image is collected for one platform or for all, with origins that give its bytes', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({
    repository: 'library/app',
    layers: [5000, 300],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const here = await node(t, registry)
  const collect = (platform: ReturnType<typeof parsePlatform> | 'all', reference = 'app') =>
    collectImage({ parts: here.proxy.parts, reference, platform, signal })

  const one = await collect(parsePlatform('linux/arm64'))
  const chosen = image.manifests[1]!
  assert.deepEqual([one.name, one.digest], ['docker.io/library/app:latest', image.digest])
  assert.deepEqual(
    one.blobs.map(({ digest }) => digest).sort(),
    [image.digest, chosen.manifestDigest, chosen.configDigest, ...image.layerDigests].sort(),
  )
  for (const layer of image.layerDigests) assert.equal(await here.store.blob(layer as Digest), undefined)

  for (const blob of one.blobs) {
    const answer = await one.origin(blob).fetch({ start: 0, end: undefined }, signal)
    let size = 0
    for await (const chunk of answer.body) size += chunk.length
    assert.equal(size, blob.size)
  }

  const all = await collect('all')
  const digests = all.blobs.map(({ digest }) => digest)
  assert.equal(new Set(digests).size, digests.length)
  for (const { manifestDigest, configDigest } of image.manifests) {
    assert.ok(digests.includes(manifestDigest as Digest) && digests.includes(configDigest as Digest))
  }
  const exact = await collect(parsePlatform('linux/arm64'), `app:any@${chosen.manifestDigest}`)
  assert.equal(exact.name, `docker.io/library/app@${chosen.manifestDigest}`)
  assert.equal(exact.blobs.length, 2 + image.layerDigests.length)
  await assert.rejects(collect(parsePlatform('linux/s390x')), { code: 'NOT_FOUND' })
  await assert.rejects(collect('all', 'no/such'), (error: { code?: string }) => error.code !== undefined)
})

test('an image is stored under its name in full', () => {
  const digest = `sha256:${'0'.repeat(64)}`
  assert.equal(storedName('redis'), 'docker.io/library/redis:latest')
  assert.equal(storedName('h.test:5000/a/b:c'), 'h.test:5000/a/b:c')
  assert.equal(storedName(`redis:7@${digest}`), `docker.io/library/redis@${digest}`)
  assert.throws(() => storedName('a/B'), { code: 'NAME_INVALID' })
})
