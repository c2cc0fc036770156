import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import type { FakeAuth, FakeImage, FakeRegistry } from '../fakes/registry.ts'
import { type Answer, codeOf, type Node, node } from './registry-tools.ts'
import { createSite } from './stand-in.ts'
import { fake } from './upstream-tools.ts'

const basic = (user: string): { authorization: string } => ({
  authorization: `Basic ${Buffer.from(`${user}:secret`).toString('base64')}`,
})
const ALICE = basic('alice')
const BOB = basic('bob')
const USERS: FakeAuth['users'] = {
  alice: { password: 'secret', repositories: ['corp/app'] },
  bob: { password: 'secret', repositories: ['corp/other'] },
}

async function setUp(
  t: TestContext,
  type: FakeAuth['type'] = 'basic',
): Promise<{ registry: FakeRegistry; image: FakeImage; open: FakeImage }> {
  const registry = await fake(t)
  const image = registry.addImage({ repository: 'corp/app', layers: [9000], seed: 'private' })
  const open = registry.addImage({ repository: 'pub/app', layers: [9000], seed: 'public' })
  registry.setAuth({ type, users: USERS, anonymous: ['pub/app'] })
  return { registry, image, open }
}

/** Manifest by tag and by digest, and a layer. */
async function pull(here: Node, name: string, image: FakeImage, headers = {}): Promise<number[]> {
  const answers: Answer[] = []
  for (const path of [
    'manifests/latest',
    `manifests/${image.digest}`,
    `blobs/${image.configDigest}`,
    `blobs/${image.layerDigests[0]}`,
  ]) {
    answers.push(await here.get(`/v2/${name}/${path}`, headers))
  }
  return answers.map(({ status }) => status)
}
const all = (status: number): number[] => Array(4).fill(status)

test('what one client may read, another gets only if upstream lets it', async (t) => {
  const { registry, image } = await setUp(t)
  const here = await node(t, registry)
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  for (const path of ['manifests/latest', `manifests/${image.digest}`, `blobs/${image.layerDigests[0]}`]) {
    for (const method of ['GET', 'HEAD']) {
      const stranger = await here.get(`/v2/corp/app/${path}`, {}, method)
      assert.equal(stranger.status, 401, path)
      assert.equal(stranger.headers['www-authenticate'], 'Basic realm="fake"')
      if (method === 'GET') assert.equal(codeOf(stranger), 'UNAUTHORIZED')
      const bob = await here.get(`/v2/corp/app/${path}`, BOB, method)
      assert.equal(bob.status, 403)
      if (method === 'GET') assert.equal(codeOf(bob), 'DENIED')
      assert.equal((await here.get(`/v2/corp/app/${path}`, basic('eve'), method)).status, 401)
    }
  }
  const conditional = { ...BOB, 'if-none-match': '*' }
  assert.equal((await here.get(`/v2/corp/app/blobs/${image.configDigest}`, conditional)).status, 403)
  assert.equal((await here.get('/v2/corp/app/tags/list', BOB)).status, 403)
  assert.equal((await here.get(`/v2/corp/app/referrers/${image.digest}`)).status, 401)
})

test('a blob is not given under the name of another repository', async (t) => {
  const { registry, image, open } = await setUp(t)
  const here = await node(t, registry)
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  assert.deepEqual(await pull(here, 'pub/app', open), all(200))
  for (const path of [`blobs/${image.layerDigests[0]}`, `manifests/${image.digest}`]) {
    assert.equal((await here.get(`/v2/pub/app/${path}`)).status, 404)
    assert.equal((await here.get(`/v2/corp/other/${path}`, BOB)).status, 404)
  }
})

test('rights are asked for once in their time, and a loss of rights counts after it', async (t) => {
  const { registry, image } = await setUp(t)
  const here = await node(t, registry, { config: { entitlementTtlMs: 60_000, tagTtlMs: 600_000 } })
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  const asked = registry.requests.length
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  assert.equal(registry.requests.length, asked)
  registry.setAuth({ type: 'basic', users: { alice: { password: 'changed' } } })
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  here.clock.ahead += 61_000
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(401))
  assert.ok(registry.requests.length > asked)
})

test('the node’s own credentials serve clients without any, and those of others as they are', async (t) => {
  const { registry, image } = await setUp(t)
  const upstream = { credentials: { 'registry.test': { username: 'alice', password: 'secret' } } }
  const here = await node(t, registry, { upstream })
  assert.deepEqual(await pull(here, 'registry.test/corp/app', image), all(200))
  assert.deepEqual(await pull(here, 'registry.test/corp/app', image, BOB), all(403))
  assert.deepEqual(await pull(here, 'docker.io/corp/app', image), all(401), 'of that host only')
})

test('a token goes on as it came, and upstream’s challenge comes back', async (t) => {
  const { registry, image, open } = await setUp(t, 'bearer')
  const here = await node(t, registry)
  const first = await here.get('/v2/corp/app/manifests/latest')
  assert.equal(first.status, 401)
  const challenge = first.headers['www-authenticate'] ?? ''
  assert.match(challenge, /^Bearer realm="http:.*\/token",service="fake",scope="repository:corp\/app:pull"/)
  const login = async (): Promise<{ authorization: string }> => {
    const url = `${registry.url}/token?service=fake&scope=repository:corp/app:pull`
    const answer = (await (await fetch(url, { headers: ALICE })).json()) as { token: string }
    return { authorization: `Bearer ${answer.token}` }
  }
  const token = await login()
  assert.deepEqual(await pull(here, 'corp/app', image, token), all(200))
  const asked = registry.requests.length
  assert.deepEqual(await pull(here, 'corp/app', image, token), all(200))
  assert.equal(registry.requests.length, asked)
  // A new log-in is a new token, of which nothing is known: one question.
  const other = await login()
  assert.equal((await here.get(`/v2/corp/app/blobs/${image.configDigest}`, other)).status, 200)
  assert.equal(registry.requests.length, asked + 2)
  assert.equal(
    (await here.get(`/v2/corp/app/blobs/${image.configDigest}`, { authorization: 'Bearer no' })).status,
    401,
  )
  // What anybody may read is not asked for again, whoever comes.
  assert.deepEqual(await pull(here, 'pub/app', open), all(200))
  const public_ = registry.requests.length
  assert.deepEqual(await pull(here, 'pub/app', open, token), all(200))
  assert.equal(registry.requests.length, public_)
})

test('while upstream is gone: known lets in who was let in before, on this node, and nobody else', async (t) => {
  const { registry, image, open } = await setUp(t)
  const first = await node(t, registry)
  assert.deepEqual(await pull(first, 'corp/app', image, ALICE), all(200))
  assert.deepEqual(await pull(first, 'pub/app', open), all(200))
  const contents = new Map(first.manager.contents)
  await first.stop()
  await registry.close()
  const here = await node(t, registry, { dir: first.dir })
  for (const [digest, bytes] of contents) here.manager.contents.set(digest, bytes)
  here.clock.ahead = 3_600_000
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  assert.deepEqual(await pull(here, 'corp/app', image, BOB), all(503))
  assert.deepEqual(await pull(here, 'corp/app', image), all(503))
  assert.deepEqual(await pull(here, 'pub/app', open), all(200), 'anybody was let in')
  assert.deepEqual(await pull(here, 'pub/app', open, BOB), all(200), 'and anybody is everybody')
  // Under the name of the public repository there still is only what belongs to it.
  assert.equal((await here.get(`/v2/pub/app/blobs/${image.layerDigests[0]}`)).status, 503)
  const conditional = { ...BOB, 'if-none-match': `"${image.configDigest}"` }
  assert.equal((await here.get(`/v2/corp/app/blobs/${image.configDigest}`, conditional)).status, 503)
  here.clock.ahead = 40 * 24 * 3_600_000
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(503), 'not for ever')
})

test('known counts what neighbours have seen, by hashes that only the cluster can make', async (t) => {
  const { registry, image, open } = await setUp(t)
  const site = createSite()
  const one = await node(t, registry, { site, id: 'one' })
  assert.deepEqual(await pull(one, 'corp/app', image, ALICE), all(200))
  assert.deepEqual(await pull(one, 'pub/app', open), all(200))
  await registry.close()
  const two = await node(t, registry, { site, id: 'two' })
  assert.deepEqual(await pull(two, 'corp/app', image, ALICE), all(200))
  assert.deepEqual(await pull(two, 'corp/app', image, BOB), all(503))
  assert.deepEqual(await pull(two, 'pub/app', open, BOB), all(200))
  const other = await node(t, registry, { site, id: 'other', config: { credentialSalt: 'another cluster' } })
  assert.deepEqual(await pull(other, 'corp/app', image, ALICE), all(503))
  for (const [key, { value }] of site.hints) {
    const text = `${key} ${JSON.stringify(value)}`
    assert.ok(!text.includes('secret') && !text.includes(ALICE.authorization.slice(6)), text)
  }
})

test('while upstream is gone: deny lets nobody in, open everybody', async (t) => {
  for (const [offline, status] of [
    ['deny', 503],
    ['open', 200],
  ] as const) {
    const { registry, image } = await setUp(t)
    const here = await node(t, registry, { config: { offline, entitlementTtlMs: 1000 } })
    assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
    registry.fault({ path: /./, status: 500 })
    here.clock.ahead = 3_600_000
    assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(status))
    assert.deepEqual(await pull(here, 'corp/app', image, BOB), all(status))
  }
})

test('a stranger’s 404 makes no tag vanish for those who may read it', async (t) => {
  const { registry, image } = await setUp(t)
  const here = await node(t, registry, { config: { tagTtlMs: 0 } })
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  // As some registries do for what one may not see.
  const clear = registry.fault({ path: /manifests\/latest/, status: 404 })
  assert.equal((await here.get('/v2/corp/app/manifests/latest', BOB)).status, 404)
  clear()
  registry.fault({ path: /./, status: 503 })
  const stale = await here.get('/v2/corp/app/manifests/latest', ALICE)
  assert.equal(digestOf(stale.body), image.digest)
})

test('a refusal is remembered as little as a right is kept', async (t) => {
  const { registry, image } = await setUp(t)
  const here = await node(t, registry, { config: { tagTtlMs: 0 } })
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
  registry.setAuth({ type: 'basic', users: {} })
  assert.equal((await here.get('/v2/corp/app/manifests/latest', ALICE)).status, 401)
  // The right is gone at once, for blobs too, and while upstream is away as well.
  assert.equal((await here.get(`/v2/corp/app/blobs/${image.configDigest}`, ALICE)).status, 401)
  const clear = registry.fault({ path: /./, status: 503 })
  assert.equal((await here.get(`/v2/corp/app/blobs/${image.configDigest}`, ALICE)).status, 503)
  clear()
  registry.setAuth({ type: 'basic', users: USERS })
  assert.deepEqual(await pull(here, 'corp/app', image, ALICE), all(200))
})

test('what is too old to count is swept out, the rest stays', async (t) => {
  const { registry, image, open } = await setUp(t, 'bearer')
  const here = await node(t, registry)
  const url = `${registry.url}/token?service=fake&scope=repository:corp/app:pull`
  const { token } = (await (await fetch(url, { headers: ALICE })).json()) as { token: string }
  assert.deepEqual(await pull(here, 'corp/app', image, { authorization: `Bearer ${token}` }), all(200))
  assert.deepEqual(await pull(here, 'pub/app', open), all(200))
  const kept = async (name = 'proxy.access'): Promise<string[]> => {
    const found: string[] = []
    for await (const [key] of here.store.records(name).entries()) found.push(key.split(' ')[0] ?? '')
    return found
  }
  assert.deepEqual(await kept(), ['docker.io/corp/app', 'docker.io/pub/app'])
  here.clock.ahead = 2 * 24 * 3_600_000
  await here.proxy.parts.sweep()
  assert.deepEqual(await kept(), ['docker.io/pub/app'], 'a token counts for a day')
  here.clock.ahead = 100 * 24 * 3_600_000
  await here.proxy.parts.sweep()
  assert.deepEqual(await kept(), [])
  assert.deepEqual(await kept('proxy.links'), [])
})

test('a stored image is served by every node while upstream is gone, a private one to who may read it', async (t) => {
  const { registry, image, open } = await setUp(t)
  const site = createSite()
  const first = await node(t, registry, { site, id: 'first' })
  for (const [label, of, client] of [
    ['corp/app', image, ALICE],
    ['pub/app', open, {}],
  ] as const) {
    assert.deepEqual(await pull(first, label, of, client), all(200))
    const blobs = [of.digest, of.configDigest, ...of.layerDigests].map((digest) => ({
      digest: digest as Digest,
      size: 1,
    }))
    const anonymous = label === 'pub/app' ? { anonymous: true } : {}
    const name = `docker.io/${label}:latest`
    site.stored.push({ name, digest: of.digest as Digest, copies: 1, blobs, site: 'test', ...anonymous })
  }
  // Hints are lost with the few nodes that have them; the records are not.
  site.hints.clear()
  registry.fault({ path: /./, status: 500 })
  const second = await node(t, registry, { site, id: 'second' })
  assert.deepEqual(await pull(second, 'pub/app', open), all(200))
  for (const status of await pull(second, 'corp/app', image)) assert.ok(status >= 400, `${status}`)
  for (const status of await pull(second, 'corp/app', image, BOB)) assert.ok(status >= 400, `${status}`)
  // A digest of another stored image is not in this repository.
  assert.ok((await second.get(`/v2/pub/app/blobs/${image.layerDigests[0]}`)).status >= 400)
  const denied = await node(t, registry, { site, id: 'third', config: { offline: 'deny' } })
  for (const status of await pull(denied, 'pub/app', open)) assert.ok(status >= 400, `${status}`)
})
