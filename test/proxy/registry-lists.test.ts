import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf } from '../../base/index.ts'
import { codeOf, node } from './registry-tools.ts'
import { fake } from './upstream-tools.ts'

const INDEX = 'application/vnd.oci.image.index.v1+json'

test('tags are listed page by page, with links that lead back to us', async (t) => {
  const registry = await fake(t)
  for (const tag of ['a', 'b', 'c', 'd', 'e'])
    registry.addImage({ repository: 'team/app', tag, layers: [100] })
  const here = await node(t, registry)
  const whole = await here.get('/v2/team/app/tags/list')
  assert.deepEqual(whole.json(), { name: 'team/app', tags: ['a', 'b', 'c', 'd', 'e'] })
  assert.equal(whole.headers['content-type'], 'application/json')
  for (const start of [
    '/v2/team/app/tags/list?ns=registry.test&n=2',
    '/v2/registry.test/team/app/tags/list?n=2',
  ]) {
    const seen: unknown[] = []
    for (let next: string | undefined = start; next !== undefined; ) {
      const page = await here.get(next)
      assert.equal(page.status, 200, next)
      seen.push(page.json().tags)
      next = /^<(.*)>; rel="next"$/.exec(String(page.headers.link ?? ''))?.[1]
      if (next !== undefined) assert.ok(next.startsWith(start.split('?')[0] ?? ''))
    }
    assert.deepEqual(seen, [['a', 'b'], ['c', 'd'], ['e']])
  }
  const after = await here.get('/v2/team/app/tags/list?last=c')
  assert.deepEqual(after.json().tags, ['d', 'e'])
  const head = await here.get('/v2/team/app/tags/list', {}, 'HEAD')
  assert.deepEqual([head.status, head.body.length], [200, 0])
  for (const n of ['x', '-1', '1e9', '']) {
    const bad = await here.get(`/v2/team/app/tags/list?n=${n}`)
    assert.deepEqual([bad.status, codeOf(bad)], [400, 'PAGINATION_NUMBER_INVALID'])
  }
  const none = await here.get('/v2/team/none/tags/list')
  assert.deepEqual([none.status, codeOf(none)], [404, 'NAME_UNKNOWN'])
})

test('while upstream is gone the tags that this node knows are listed, and it says so', async (t) => {
  const registry = await fake(t)
  const here = await node(t, registry)
  for (const tag of ['c', 'a', 'b']) {
    registry.addImage({ repository: 'team/app', tag, layers: [100] })
    registry.addImage({ repository: 'team/app-two', tag, layers: [100] })
    await here.get(`/v2/team/app/manifests/${tag}`)
    await here.get(`/v2/team/app-two/manifests/${tag}`)
  }
  await registry.close()
  const whole = await here.get('/v2/team/app/tags/list')
  assert.deepEqual(whole.json(), { name: 'team/app', tags: ['a', 'b', 'c'] })
  assert.match(String(whole.headers['x-shoal-stale']), /^\d+$/)
  const page = await here.get('/v2/team/app/tags/list?n=2')
  assert.deepEqual(page.json().tags, ['a', 'b'])
  assert.equal(page.headers.link, '</v2/team/app/tags/list?n=2&last=b>; rel="next"')
  const rest = await here.get('/v2/team/app/tags/list?n=2&last=b')
  assert.deepEqual([rest.json().tags, rest.headers.link], [['c'], undefined])
  assert.deepEqual((await here.get('/v2/team/app/tags/list?n=0')).json().tags, [])
  const unknown = await here.get('/v2/team/other/tags/list')
  assert.deepEqual([unknown.status, codeOf(unknown)], [503, 'UNAVAILABLE'])
})

test('referrers come from upstream’s API, filtered where upstream does not', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({ repository: 'a/b', layers: [100] })
  const empty = {
    mediaType: 'application/vnd.oci.empty.v1+json',
    digest: registry.addBlob('a/b', Buffer.from('{}')),
    size: 2,
  }
  const subject = { mediaType: 'application/vnd.oci.image.manifest.v1+json', digest: image.digest, size: 1 }
  const attach = (artifactType: string): string =>
    registry.addManifest('a/b', { schemaVersion: 2, artifactType, config: empty, layers: [], subject })
  const [sbom, signature] = [attach('x/sbom'), attach('x/signature')]
  const here = await node(t, registry)
  const digests = (answer: { json(): Record<string, unknown> }): unknown[] =>
    (answer.json().manifests as { digest: string }[]).map(({ digest }) => digest)
  const whole = await here.get(`/v2/a/b/referrers/${image.digest}`)
  assert.deepEqual([whole.status, whole.headers['content-type']], [200, INDEX])
  assert.deepEqual(digests(whole), [sbom, signature])
  assert.equal(whole.headers['oci-filters-applied'], undefined)
  const some = await here.get(`/v2/a/b/referrers/${image.digest}?artifactType=x/sbom`)
  assert.deepEqual(digests(some), [sbom])
  assert.equal(some.headers['oci-filters-applied'], 'artifactType')
  assert.equal((await here.get(`/v2/a/b/manifests/${signature}`)).status, 200)
  const none = await here.get(`/v2/a/b/referrers/${digestOf(Buffer.from('x'))}`)
  assert.deepEqual([none.status, digests(none)], [200, []])
  assert.equal(codeOf(await here.get('/v2/a/b/referrers/latest')), 'DIGEST_INVALID')
})

test('without the API the fallback tag is read, upstream there or not', async (t) => {
  const registry = await fake(t)
  const image = registry.addImage({ repository: 'a/b', layers: [100] })
  registry.fault({ path: /referrers/, status: 404 })
  const here = await node(t, registry, { config: { tagTtlMs: 0 } })
  const path = `/v2/a/b/referrers/${image.digest}`
  const none = await here.get(path)
  assert.deepEqual([none.status, none.json().manifests], [200, []])
  const entry = (artifactType: string): object => ({
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    digest: digestOf(Buffer.from(artifactType)),
    size: 1,
    artifactType,
  })
  registry.addManifest(
    'a/b',
    { schemaVersion: 2, mediaType: INDEX, manifests: [entry('x/a'), entry('x/b')] },
    { tag: image.digest.replace(':', '-') },
  )
  const some = await here.get(`${path}?artifactType=x/b`)
  assert.deepEqual(some.json().manifests, [entry('x/b')])
  assert.equal(some.headers['oci-filters-applied'], 'artifactType')
  await registry.close()
  const stale = await here.get(path)
  assert.deepEqual(stale.json().manifests, [entry('x/a'), entry('x/b')])
  assert.ok(stale.headers['x-shoal-stale'] !== undefined)
  const other = await here.get(`/v2/a/b/referrers/${digestOf(Buffer.from('x'))}`)
  assert.equal(other.status, 503)
})
