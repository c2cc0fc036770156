import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { digestOf, isShoalError } from '../../base/index.ts'
import { createContents } from '../fakes/contents.ts'
import { asClient, asNode, client, collect, scratch } from './upstream-tools.ts'

const BINARY = 'docker-registry'
const missing = spawnSync(BINARY, ['--version']).error ? `${BINARY} is not installed` : false
// bcrypt of `secret`, which Node cannot make.
const HTPASSWD = 'ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n'

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** A real registry in a directory of its own; ended by the test. */
async function realRegistry(t: TestContext, htpasswd?: string): Promise<string> {
  const dir = scratch(t)
  const host = `127.0.0.1:${await freePort()}`
  const auth =
    htpasswd === undefined ? '' : `auth: {htpasswd: {realm: real, path: ${join(dir, 'htpasswd')}}}\n`
  if (htpasswd !== undefined) writeFileSync(join(dir, 'htpasswd'), htpasswd)
  writeFileSync(
    join(dir, 'config.yml'),
    `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${dir}/data}}\nhttp: {addr: "${host}"}\n${auth}`,
  )
  const child = spawn(BINARY, ['serve', join(dir, 'config.yml')], { stdio: 'ignore' })
  t.after(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  for (let up = false; !up; ) {
    assert.equal(child.exitCode, null, 'the registry ended')
    await sleep(50)
    up = await fetch(`http://${host}/v2/`).then(
      () => true,
      () => false,
    )
  }
  return host
}

async function push(host: string, repository: string, headers: Record<string, string> = {}) {
  const contents = createContents()
  const image = contents.addImage({
    repository,
    layers: [200_000, 3_000_000],
    platforms: ['linux/amd64', 'linux/arm64'],
  })
  const { blobs, manifests } = contents.repository(repository)
  const base = `http://${host}/v2/${repository}`
  for (const [digest, bytes] of blobs) {
    const started = await fetch(`${base}/blobs/uploads/`, { method: 'POST', headers })
    const url = new URL(started.headers.get('location') ?? '', base)
    url.searchParams.set('digest', digest)
    const put = await fetch(url, {
      method: 'PUT',
      headers: { ...headers, 'content-type': 'application/octet-stream' },
      body: new Uint8Array(bytes),
    })
    assert.equal(put.status, 201)
  }
  for (const [digest, { mediaType, bytes }] of manifests) {
    const reference = digest === image.digest ? 'latest' : digest
    const put = await fetch(`${base}/manifests/${reference}`, {
      method: 'PUT',
      headers: { ...headers, 'content-type': mediaType },
      body: new Uint8Array(bytes),
    })
    assert.equal(put.status, 201)
  }
  return image
}

test('a real registry: tags, manifests, blobs and ranges', { skip: missing }, async (t) => {
  const host = await realRegistry(t)
  const image = await push(host, 'lib/real')
  const upstream = client(t, { mirrors: { 'docker.io': `http://${host}` } })
  const ref = { host: 'docker.io', repository: 'lib/real' }
  const head = await upstream.head(ref, 'manifests', 'latest', asNode())
  assert.equal(head.digest, image.digest)
  const manifest = await upstream.fetch(ref, 'manifests', image.digest, asNode())
  assert.equal(manifest.digest, image.digest)
  const bytes = await collect(manifest.body)
  assert.equal(digestOf(bytes), image.digest)
  assert.equal(head.size, bytes.length)
  assert.equal(head.mediaType, manifest.mediaType)
  for (const digest of [...image.layerDigests, image.configDigest]) {
    const { size } = await upstream.head(ref, 'blobs', digest, asNode())
    const middle = Math.floor((size ?? 0) / 2)
    const origin = upstream.origin(ref, 'blobs', digest, { kind: 'node' })
    const { signal } = asNode()
    const [first, second] = await Promise.all([
      origin.fetch({ start: 0, end: middle }, signal),
      origin.fetch({ start: middle, end: undefined }, signal),
    ])
    assert.deepEqual([first.size, first.ranged, second.start], [size, true, middle])
    const [a, b] = await Promise.all([collect(first.body), collect(second.body)])
    assert.equal(digestOf(Buffer.concat([a, b])), digest)
  }
  const tags = await upstream.get(ref, 'tags/list', asNode())
  assert.deepEqual(JSON.parse(tags.body.toString()), { name: 'lib/real', tags: ['latest'] })
  await assert.rejects(upstream.head(ref, 'manifests', 'nope', asNode()), (error) =>
    isShoalError(error, 'NOT_FOUND'),
  )
  await assert.rejects(upstream.fetch(ref, 'blobs', `sha256:${'0'.repeat(64)}`, asNode()), (error) =>
    isShoalError(error, 'NOT_FOUND'),
  )
})

test('a real registry with htpasswd', { skip: missing }, async (t) => {
  const host = await realRegistry(t, HTPASSWD)
  const ann = { username: 'ann', password: 'secret' }
  const authorization = `Basic ${Buffer.from('ann:secret').toString('base64')}`
  const image = await push(host, 'lib/real', { authorization })
  const ref = { host, repository: 'lib/real' }
  const upstream = client(t, { credentials: { [host]: ann } })
  assert.equal((await upstream.head(ref, 'manifests', 'latest', asNode())).digest, image.digest)
  const { body } = await upstream.fetch(ref, 'blobs', image.layerDigests[1]!, asNode())
  assert.equal(digestOf(await collect(body)), image.layerDigests[1])
  const anybody = client(t)
  assert.equal((await anybody.head(ref, 'manifests', 'latest', asClient(authorization))).digest, image.digest)
  await assert.rejects(
    anybody.head(ref, 'manifests', 'latest', asNode()),
    (error) => isShoalError(error, 'UNAUTHORIZED') && error.details.challenge === 'Basic realm="real"',
  )
})
