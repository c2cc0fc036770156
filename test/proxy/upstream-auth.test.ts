import assert from 'node:assert/strict'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, type Log } from '../../base/index.ts'
import { createDockerConfig } from '../../proxy/upstream/docker-config.ts'
import { createUpstream } from '../../proxy/upstream/index.ts'
import type { FakeAuth, FakeRegistry } from '../fakes/registry.ts'
import { asClient, asNode, certificate, client, collect, fake, scratch } from './upstream-tools.ts'

const USERS = { ann: { password: 'pass:word' }, bob: { password: 'b', repositories: ['team/b'] } }
const BEARER: FakeAuth = { type: 'bearer', users: USERS, anonymous: ['open/x'] }
const ANN = { username: 'ann', password: 'pass:word' }
const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`
const tokens = (registry: FakeRegistry) => registry.requests.filter(({ url }) => url.startsWith('/token'))

test('bearer: an anonymous token, kept for the next requests', async (t) => {
  const registry = await fake(t, {
    auth: { ...BEARER, extraChallenges: 'Negotiate abc=, Basic realm="other"' },
  })
  const image = registry.addImage({ repository: 'open/x', layers: [10] })
  const upstream = client(t)
  const ref = { host: registry.host, repository: 'open/x' }
  const head = await upstream.head(ref, 'manifests', 'latest', asNode())
  assert.equal(head.digest, image.digest)
  await upstream.head(ref, 'blobs', image.configDigest, asNode())
  assert.equal(tokens(registry).length, 1)
  assert.equal(tokens(registry)[0]?.headers.authorization, undefined)
  assert.equal(registry.requests.filter(({ status }) => status === 401).length, 1)
})

test('bearer: credentials go to the token server only; many requests share a dance', async (t) => {
  const registry = await fake(t, { auth: BEARER })
  const image = registry.addImage({ repository: 'team/a', layers: [10, 10, 10] })
  registry.fault({ path: /^\/token/, delay: 100 })
  const upstream = client(t, { credentials: { [registry.host]: ANN } })
  const ref = { host: registry.host, repository: 'team/a' }
  await Promise.all(image.layerDigests.map((digest) => upstream.head(ref, 'blobs', digest, asNode())))
  assert.equal(tokens(registry).length, 1)
  assert.equal(tokens(registry)[0]?.headers.authorization, basic('ann:pass:word'))
  const others = registry.requests.filter(({ url }) => !url.startsWith('/token'))
  assert.ok(others.every(({ headers }) => !headers.authorization?.startsWith('Basic')))
})

test('bearer: a token that was revoked or has expired is renewed', async (t) => {
  const registry = await fake(t, { auth: { ...BEARER, tokenSeconds: 1 } })
  registry.addImage({ repository: 'team/a', layers: [10] })
  const upstream = client(t, { credentials: { [registry.host]: ANN } })
  const ref = { host: registry.host, repository: 'team/a' }
  await upstream.head(ref, 'manifests', 'latest', asNode())
  registry.revokeTokens()
  await upstream.head(ref, 'manifests', 'latest', asNode())
  assert.equal(tokens(registry).length, 2)
  registry.resetCounters()
  await sleep(1000)
  await upstream.head(ref, 'manifests', 'latest', asNode())
  // It was known to have expired, so nothing was asked in vain.
  assert.deepEqual(
    registry.requests.map(({ status }) => status),
    [200, 200],
  )
})

test('a refusal carries the challenge word by word', async (t) => {
  const registry = await fake(t, { auth: BEARER })
  registry.addImage({ repository: 'team/a', layers: [10] })
  const ref = { host: registry.host, repository: 'team/a' }
  const refused = (error: unknown): boolean => {
    assert.ok(isShoalError(error, 'UNAUTHORIZED'), String(error))
    assert.match(
      String(error.details.challenge),
      /^Bearer realm="http:[^"]+\/token",service="fake",scope="repository:team\/a:pull"/,
    )
    return true
  }
  await assert.rejects(client(t).head(ref, 'manifests', 'latest', asNode()), refused)
  const wrong = client(t, { credentials: { [registry.host]: { username: 'ann', password: 'no' } } })
  await assert.rejects(wrong.fetch(ref, 'manifests', 'latest', asNode()), refused)
  const bob = client(t, { credentials: { [registry.host]: { username: 'bob', password: 'b' } } })
  await assert.rejects(bob.get(ref, 'tags/list', asNode()), refused)
  await assert.rejects(client(t).head(ref, 'manifests', 'latest', asClient('Bearer old')), refused)
})

test('basic: only after a challenge, then at once; wrong rights are denied', async (t) => {
  const registry = await fake(t, { auth: { type: 'basic', users: USERS } })
  const image = registry.addImage({ repository: 'team/a', layers: [1000] })
  const upstream = client(t, { credentials: { [registry.host]: ANN } })
  const ref = { host: registry.host, repository: 'team/a' }
  await upstream.head(ref, 'manifests', 'latest', asNode())
  const { body } = await upstream.fetch(ref, 'blobs', image.configDigest, asNode())
  await collect(body)
  assert.deepEqual(
    registry.requests.map(({ status }) => status),
    [401, 200, 200],
  )
  assert.equal(await upstream.identity?.(registry.host), basic('ann:pass:word'))
  assert.equal(await upstream.identity?.('other.example'), undefined)
  const bob = client(t, { credentials: { [registry.host]: { username: 'bob', password: 'b' } } })
  await assert.rejects(bob.head(ref, 'manifests', 'latest', asNode()), (error) =>
    isShoalError(error, 'DENIED'),
  )
})

test("a client's header goes as it is, in place of the node's own", async (t) => {
  const registry = await fake(t, { auth: { type: 'basic', users: USERS } })
  registry.addImage({ repository: 'team/b', layers: [10] })
  const upstream = client(t, { credentials: { [registry.host]: ANN } })
  const ref = { host: registry.host, repository: 'team/b' }
  await upstream.head(ref, 'manifests', 'latest', asClient(basic('bob:b')))
  await assert.rejects(
    upstream.head(ref, 'manifests', 'latest', asClient(basic('eve:b'))),
    (error) => isShoalError(error, 'UNAUTHORIZED') && error.details.challenge === 'Basic realm="fake"',
  )
  assert.deepEqual(
    registry.requests.map(({ headers }) => headers.authorization),
    [basic('bob:b'), basic('eve:b')],
  )
})

test('an identity token is exchanged by POST', async (t) => {
  const registry = await fake(t, { auth: { ...BEARER, identityTokens: { 'refresh-me': 'ann' } } })
  registry.addImage({ repository: 'team/a', layers: [10] })
  const dockerConfig = join(scratch(t), 'config.json')
  writeFileSync(dockerConfig, JSON.stringify({ auths: { [registry.host]: { identitytoken: 'refresh-me' } } }))
  const upstream = client(t, { dockerConfig })
  await upstream.head({ host: registry.host, repository: 'team/a' }, 'manifests', 'latest', asNode())
  assert.deepEqual(
    tokens(registry).map(({ method, url }) => `${method} ${url}`),
    ['POST /token'],
  )
})

test("docker's config.json: entries, Docker Hub's key, helpers, a log-in while running", async (t) => {
  const dir = scratch(t)
  const file = join(dir, 'config.json')
  const log: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log }
  const docker = createDockerConfig({ file, log })
  const { signal } = new AbortController()
  assert.equal(await docker.find('a.example', signal), undefined)
  writeFileSync(file, '{ "auths": nonsense')
  assert.equal(await docker.find('a.example', signal), undefined)

  const auth = (text: string): string => Buffer.from(text).toString('base64')
  const helper = join(dir, 'docker-credential-test')
  writeFileSync(
    helper,
    `#!/bin/sh
read -r server
case "$1 $server" in
"get h.example") echo '{"ServerURL":"h.example","Username":"u","Secret":"s"}' ;;
"get i.example") echo '{"ServerURL":"i.example","Username":"<token>","Secret":"t"}' ;;
"get https://index.docker.io/v1/") echo '{"Username":"hub","Secret":"s"}' ;;
"get bad.example") echo nonsense ;;
*) echo credentials not found in native keychain; exit 1 ;;
esac
`,
  )
  chmodSync(helper, 0o755)
  const path = process.env.PATH
  process.env.PATH = `${dir}:${path}`
  t.after(() => {
    process.env.PATH = path
  })
  writeFileSync(
    file,
    JSON.stringify({
      auths: {
        'https://a.example/v2/': { auth: auth('ann:a:b') },
        'https://index.docker.io/v1/': { auth: auth('hub-user:x') },
        'empty.example': {},
        'broken.example': { auth: 'bm9jb2xvbg==' },
      },
      credHelpers: {
        'h.example': 'test',
        'i.example': 'test',
        'bad.example': 'test',
        'none.example': 'test',
        'missing.example': 'is-not-installed',
        'evil.example': '../../bin/sh',
      },
    }),
  )
  const find = (host: string) => docker.find(host, signal)
  assert.deepEqual(await find('a.example'), { username: 'ann', password: 'a:b' })
  assert.deepEqual(await find('docker.io'), { username: 'hub-user', password: 'x' })
  assert.deepEqual(await find('h.example'), { username: 'u', password: 's' })
  assert.deepEqual(await find('i.example'), { identityToken: 't' })
  for (const name of ['empty', 'broken', 'bad', 'none', 'missing', 'evil', 'other']) {
    assert.equal(await find(`${name}.example`), undefined, name)
  }
  writeFileSync(file, JSON.stringify({ auths: { 'empty.example': {} }, credsStore: 'test' }))
  assert.deepEqual(await find('docker.io'), { username: 'hub', password: 's' })
  assert.equal(await find('a.example'), undefined)
})

test("docker's log-in for a host is not shown to the mirror that it is mapped to", async (t) => {
  const registry = await fake(t, { auth: { type: 'basic', users: USERS } })
  registry.addImage({ repository: 'library/alpine', layers: [10] })
  const dockerConfig = join(scratch(t), 'config.json')
  const auth = Buffer.from('ann:pass:word').toString('base64')
  const mirrors = { 'docker.io': registry.url }
  const ref = { host: 'docker.io', repository: 'alpine' }
  writeFileSync(dockerConfig, JSON.stringify({ auths: { 'https://index.docker.io/v1/': { auth } } }))
  await assert.rejects(client(t, { mirrors, dockerConfig }).head(ref, 'manifests', 'latest', asNode()))
  assert.ok(registry.requests.every(({ headers }) => headers.authorization === undefined))
  writeFileSync(dockerConfig, JSON.stringify({ auths: { [registry.host]: { auth } } }))
  await client(t, { mirrors, dockerConfig }).head(ref, 'manifests', 'latest', asNode())
  await client(t, { mirrors, credentials: { 'docker.io': ANN } }).head(ref, 'manifests', 'latest', asNode())
})

test('nothing secret is logged or told in errors', async (t) => {
  const registry = await fake(t, { auth: BEARER })
  const image = registry.addImage({ repository: 'team/a', layers: [5000] })
  registry.fault({ path: /blobs/, skip: 1, truncate: 100 })
  const said: string[] = []
  const say = (fields: object, message: string): void => {
    const errors = Object.values(fields).map((value) => (value instanceof Error ? String(value.cause) : ''))
    said.push(JSON.stringify(fields), String(errors), message)
  }
  const log: Log = { debug: say, info: say, warn: say, error: say, child: () => log }
  const upstream = createUpstream({
    config: {
      mirrors: {},
      ca: [],
      stallMs: 1000,
      connectMs: 1000,
      retries: 1,
      credentials: { [registry.host]: ANN },
    },
    log,
  })
  t.after(() => upstream.close())
  const ref = { host: registry.host, repository: 'team/a' }
  const keep = (error: Error): void => {
    for (let e: unknown = error; e instanceof Error; e = e.cause) say({ ...e }, `${e.message} ${e.stack}`)
  }
  const { body } = await upstream.fetch(ref, 'blobs', image.layerDigests[0]!, asNode())
  await collect(body).catch(keep)
  registry.setAuth({ ...BEARER, users: {} })
  registry.revokeTokens()
  await upstream.head(ref, 'manifests', 'latest', asNode()).catch(keep)
  await upstream.head(ref, 'manifests', 'latest', asClient('Bearer super-secret')).catch(keep)
  registry.fault({ path: /./, hangUp: true })
  await upstream.head(ref, 'manifests', 'latest', asClient('Bearer super-secret')).catch(keep)
  const all = said.join('\n')
  assert.ok(said.length > 6)
  for (const secret of ['super-secret', 'pass:word', basic('ann:pass:word').slice(6)]) {
    assert.ok(!all.includes(secret))
  }
})

test('TLS: a further authority is trusted; a token server without TLS gets no credentials', async (t) => {
  const pem = certificate(scratch(t))
  if (!pem) return t.skip('openssl is not installed')
  const plain = await fake(t, { auth: BEARER })
  const registry = await fake(t, { tls: pem, auth: { ...BEARER, realm: `${plain.url}/token` } })
  registry.addImage({ repository: 'team/a', layers: [10] })
  const mirrors = { 'r.example': registry.url }
  const ref = { host: 'r.example', repository: 'team/a' }
  await assert.rejects(
    client(t, { mirrors }).head(ref, 'manifests', 'latest', asNode()),
    (error) => isShoalError(error, 'UPSTREAM_UNREACHABLE') && error.details.reason === 'tls',
  )
  const upstream = client(t, { mirrors, ca: [pem.file], credentials: { 'r.example': ANN } })
  await assert.rejects(upstream.head(ref, 'manifests', 'latest', asNode()), (error) =>
    isShoalError(error, 'UNAUTHORIZED'),
  )
  assert.equal(plain.requests.length, 0)
  registry.setAuth(BEARER)
  const head = await upstream.head(ref, 'manifests', 'latest', asNode())
  assert.ok(head.digest)
  // A blob may come from a store without TLS: its digest is checked. What a tag stands for may not.
  registry.setAuth(undefined)
  plain.setAuth(undefined)
  const image = plain.addImage({ repository: 'team/a', layers: [10] })
  registry.fault({ path: /v2/, redirect: plain.url })
  await collect((await upstream.fetch(ref, 'blobs', image.layerDigests[0]!, asNode())).body)
  await assert.rejects(upstream.head(ref, 'manifests', 'latest', asNode()), (error) =>
    isShoalError(error, 'UPSTREAM_STATUS'),
  )
  assert.throws(
    () => client(t, { ca: ['/does/not/exist.pem'] }),
    (error) => isShoalError(error, 'CONFIG'),
  )
})
