import assert from 'node:assert/strict'
import { createServer, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, type ShoalError } from '../../base/index.ts'
import type { FakeImage, FakeRegistry, FakeRegistryOptions } from '../fakes/registry.ts'
import { asNode, client, collect, fake } from './upstream-tools.ts'

const SIZE = 300_000

interface Setting {
  registry: FakeRegistry
  image: FakeImage
  ref: { host: string; repository: string }
  layer: string
  bytes: Buffer
}

async function setting(t: TestContext, options: FakeRegistryOptions = {}, size = SIZE): Promise<Setting> {
  const registry = await fake(t, options)
  const image = registry.addImage({ repository: 'a/b', layers: [size] })
  const layer = image.layerDigests[0]!
  const bytes = registry.repository('a/b').blobs.get(layer)!
  return { registry, image, ref: { host: registry.host, repository: 'a/b' }, layer, bytes }
}

async function failing(work: Promise<unknown>): Promise<ShoalError> {
  const error = await work.then(
    () => assert.fail('should have failed'),
    (error: unknown) => error,
  )
  assert.ok(isShoalError(error), String(error))
  return error
}

const statuses = (registry: FakeRegistry): number[] => registry.requests.map(({ status }) => status)

test('what comes is what was asked for: whole, from the middle, a part, past the end', async (t) => {
  const { ref, layer, bytes } = await setting(t)
  const upstream = client(t)
  const get = async (range?: { start: number; end: number | undefined }) => {
    const answer = await upstream.fetch(ref, 'blobs', layer, { ...asNode(), ...(range ? { range } : {}) })
    const { start, size, ranged } = answer
    return { start, size, ranged, body: await collect(answer.body) }
  }
  const size = bytes.length
  assert.deepEqual(await get(), { start: 0, size, ranged: true, body: bytes })
  assert.deepEqual(await get({ start: 5, end: undefined }), {
    start: 5,
    size,
    ranged: true,
    body: bytes.subarray(5),
  })
  assert.deepEqual(await get({ start: 5, end: 9 }), {
    start: 5,
    size,
    ranged: true,
    body: bytes.subarray(5, 9),
  })
  const over = await get({ start: size - 3, end: size + 100 })
  assert.deepEqual(over.body, bytes.subarray(-3))
  const error = await failing(get({ start: size, end: undefined }))
  assert.equal(error.code, 'UPSTREAM_STATUS')
  assert.equal(error.details.status, 416)
  assert.equal(error.details.size, size)
  const origin = upstream.origin(ref, 'blobs', layer, { kind: 'node' })
  assert.equal(origin.label, `${ref.host}/a/b`)
  const part = await origin.fetch({ start: 1, end: 3 }, asNode().signal)
  assert.deepEqual(await collect(part.body), bytes.subarray(1, 3))
})

test('no ranges, no length, no digest, no HEAD', async (t) => {
  const { registry, image, ref, layer, bytes } = await setting(t)
  const upstream = client(t)
  const range = { start: 100, end: 200 }
  let clear = registry.fault({ path: /blobs/, noRange: true })
  const whole = await upstream.fetch(ref, 'blobs', layer, { ...asNode(), range })
  assert.deepEqual([whole.ranged, whole.start, whole.size], [false, 0, bytes.length])
  assert.deepEqual(await collect(whole.body), bytes)
  clear()
  clear = registry.fault({ path: /blobs/, chunked: true })
  const chunked = await upstream.fetch(ref, 'blobs', layer, asNode())
  assert.equal(chunked.size, undefined)
  assert.deepEqual(await collect(chunked.body), bytes)
  const part = await upstream.fetch(ref, 'blobs', layer, { ...asNode(), range })
  assert.deepEqual(await collect(part.body), bytes.subarray(100, 200))
  clear()

  const manifest = registry.repository('a/b').manifests.get(image.digest)!
  const expected = { digest: image.digest, size: manifest.bytes.length, mediaType: manifest.mediaType }
  clear = registry.fault({ path: /manifests/, noDigest: true })
  assert.deepEqual(await upstream.head(ref, 'manifests', 'latest', asNode()), expected)
  assert.deepEqual(await upstream.head(ref, 'manifests', image.digest, asNode()), expected)
  clear()
  for (const status of [405, 501]) {
    clear = registry.fault({ path: /./, method: 'HEAD', status })
    assert.deepEqual(await upstream.head(ref, 'manifests', 'latest', asNode()), expected)
    const head = await upstream.head(ref, 'blobs', layer, asNode())
    assert.deepEqual([head.digest, head.size], [layer, bytes.length])
    clear()
  }
})

test('refusals have their codes; small answers come with their status', async (t) => {
  const { registry, ref } = await setting(t)
  const upstream = client(t, { retries: 0 })
  assert.equal((await failing(upstream.head(ref, 'manifests', 'nope', asNode()))).code, 'NOT_FOUND')
  for (const [status, code] of [
    [403, 'DENIED'],
    [418, 'UPSTREAM_STATUS'],
    [500, 'UPSTREAM_STATUS'],
  ] as const) {
    const clear = registry.fault({ path: /./, status })
    const error = await failing(upstream.fetch(ref, 'manifests', 'latest', asNode()))
    assert.deepEqual([error.code, error.details.status], [code, status])
    clear()
  }
  const tags = await upstream.get(ref, 'tags/list?n=5', asNode())
  assert.deepEqual([tags.status, JSON.parse(tags.body.toString())], [200, { name: 'a/b', tags: ['latest'] }])
  assert.equal((await upstream.get(ref, 'tags/nonsense/x', asNode())).status, 404)
  for (const path of ['../../x/tags/list', '/../../../../etc', '../c/tags/list']) {
    assert.equal((await failing(upstream.get(ref, path, asNode()))).code, 'NAME_INVALID')
  }
  for (const reference of ['../x', 'sha256:abc', '', 'a b']) {
    assert.equal((await failing(upstream.head(ref, 'manifests', reference, asNode()))).code, 'NAME_INVALID')
  }
  const large = registry.addBlob('a/b', Buffer.alloc(5 * 1024 * 1024))
  assert.equal((await failing(upstream.get(ref, `blobs/${large}`, asNode()))).code, 'PROTOCOL')
})

test('what passes is tried again, within the patience, and Retry-After counts', async (t) => {
  const { registry, ref } = await setting(t)
  const upstream = client(t)
  registry.fault({ path: /./, count: 1, status: 503 })
  registry.fault({ path: /./, skip: 1, count: 1, hangUp: true })
  await upstream.head(ref, 'manifests', 'latest', asNode())
  assert.equal(registry.requests.length, 3)

  registry.resetCounters()
  registry.fault({ path: /./, count: 1, status: 429, retryAfter: 1 })
  const started = performance.now()
  await upstream.head(ref, 'manifests', 'latest', asNode())
  assert.ok(performance.now() - started >= 990)

  registry.resetCounters()
  registry.fault({ path: /./, status: 429, retryAfter: 3600 })
  const error = await failing(upstream.head(ref, 'manifests', 'latest', asNode()))
  assert.deepEqual(
    [error.code, error.details.status, error.details.retryAfter],
    ['UPSTREAM_STATUS', 429, 3600],
  )
  assert.deepEqual(statuses(registry), [429])

  registry.clearFaults()
  registry.resetCounters()
  registry.fault({ path: /./, status: 502 })
  assert.equal((await failing(upstream.head(ref, 'manifests', 'latest', asNode()))).details.status, 502)
  assert.deepEqual(statuses(registry), [502, 502, 502])
})

test('a body that ends early says how far it came', async (t) => {
  const { registry, ref, layer, bytes } = await setting(t)
  const upstream = client(t)
  for (const fault of [{ truncate: 1000 }, { truncate: 1000, chunked: true }]) {
    const clear = registry.fault({ path: /blobs/, ...fault })
    for (const range of [undefined, { start: 10, end: 200_000 }]) {
      const { body } = await upstream.fetch(ref, 'blobs', layer, { ...asNode(), ...(range ? { range } : {}) })
      let received = 0
      const read = async (): Promise<void> => {
        for await (const chunk of body) {
          const at = (range?.start ?? 0) + received
          assert.deepEqual(chunk, bytes.subarray(at, at + chunk.length))
          received += chunk.length
        }
      }
      const error = await failing(read())
      assert.equal(error.code, 'UPSTREAM_UNREACHABLE')
      assert.deepEqual([received, error.details.received], [1000, 1000])
      if (range) assert.equal(error.details.expected, 199_990)
    }
    clear()
  }
})

test('silence is noticed: before the answer, and in a body that somebody waits for', async (t) => {
  const { registry, ref, layer } = await setting(t)
  const upstream = client(t, { stallMs: 300, retries: 1 })
  let clear = registry.fault({ path: /manifests/, stallHeaders: true, count: 1 })
  await upstream.head(ref, 'manifests', 'latest', asNode())
  clear()
  clear = registry.fault({ path: /manifests/, stallHeaders: true })
  const late = await failing(upstream.head(ref, 'manifests', 'latest', asNode({ timeoutMs: 200 })))
  assert.deepEqual([late.code, late.details.reason], ['UPSTREAM_UNREACHABLE', 'stall'])
  clear()
  registry.fault({ path: /blobs/, stall: 5000 })
  const { body } = await upstream.fetch(ref, 'blobs', layer, asNode())
  const error = await failing(collect(body))
  assert.deepEqual([error.details.reason, error.details.received], ['stalled', 5000])
})

test('a slow consumer is no stalled upstream, and stops the sender', async (t) => {
  const size = 64 * 1024 * 1024
  const { registry, ref, layer, bytes } = await setting(t, {}, size)
  const upstream = client(t, { stallMs: 300 })
  const { body } = await upstream.fetch(ref, 'blobs', layer, asNode())
  const parts: Uint8Array[] = []
  for await (const part of body) {
    if (parts.length === 0) {
      await sleep(1000)
      // The sockets' buffers on both sides are full by now, however large they are here; nothing else takes bytes.
      assert.ok(registry.totalSent() < size, `${registry.totalSent()} bytes were taken`)
    }
    parts.push(Buffer.from(part))
  }
  assert.ok(Buffer.concat(parts).equals(bytes))
})

test('who stops early or aborts frees the connection', async (t) => {
  const size = 24 * 1024 * 1024
  const { registry, ref, layer } = await setting(t, {}, size)
  const upstream = client(t)
  const first = await upstream.fetch(ref, 'blobs', layer, asNode())
  for await (const _ of first.body) break
  const control = new AbortController()
  const second = await upstream.fetch(ref, 'blobs', layer, asNode({ signal: control.signal }))
  const reading = failing(collect(second.body))
  control.abort()
  assert.equal((await reading).code, 'ABORTED')
  // One that nobody reads.
  const third = new AbortController()
  await upstream.fetch(ref, 'blobs', layer, asNode({ signal: third.signal }))
  third.abort()
  while (registry.connections() > 0) await sleep(10)
  assert.ok(registry.totalSent() < size * 3)

  // A small rest is read, so that the connection stays.
  const small = registry.addBlob('a/b', Buffer.alloc(40_000))
  registry.setBandwidth(400_000)
  const fourth = await upstream.fetch(ref, 'blobs', small, asNode())
  for await (const _ of fourth.body) break
  await upstream.head(ref, 'manifests', 'latest', asNode())
  while (!registry.requests.every(({ done }) => done)) await sleep(10)
  assert.equal(registry.sent.get(small), 40_000)

  const aborted = AbortSignal.abort()
  assert.equal(
    (await failing(upstream.head(ref, 'manifests', 'latest', asNode({ signal: aborted })))).code,
    'ABORTED',
  )
  registry.fault({ path: /manifests/, stallHeaders: true })
  const fifth = new AbortController()
  const waiting = failing(upstream.head(ref, 'manifests', 'latest', asNode({ signal: fifth.signal })))
  fifth.abort()
  assert.equal((await waiting).code, 'ABORTED')
})

test('redirects: followed a few times, without credentials to others, and remembered for a blob', async (t) => {
  const cdn = await fake(t)
  const auth = { type: 'basic' as const, users: { u: { password: 'p' } } }
  const { registry, ref, layer, bytes } = await setting(t, { auth, contents: cdn.contents })
  const upstream = client(t, { credentials: { [registry.host]: { username: 'u', password: 'p' } } })
  const clear = registry.fault({ path: /blobs/, redirect: cdn.url })
  const via = ['node-1', 'node-2']
  for (const range of [
    { start: 0, end: 100 },
    { start: 100, end: 300 },
  ]) {
    const { body } = await upstream.fetch(ref, 'blobs', layer, asNodeWith({ range, via }))
    assert.deepEqual(await collect(body), bytes.subarray(range.start, range.end))
  }
  assert.equal(registry.requests.length, 1)
  assert.equal(registry.requests[0]?.headers['x-shoal-via'], 'node-1, node-2')
  assert.ok(cdn.requests.length === 2)
  for (const { headers } of cdn.requests) {
    assert.deepEqual([headers.authorization, headers['x-shoal-via']], [undefined, undefined])
    assert.equal(headers['accept-encoding'], 'identity')
  }
  // The remembered address has expired: the registry is asked again.
  const expired = cdn.fault({ path: /blobs/, count: 1, status: 403 })
  await collect((await upstream.fetch(ref, 'blobs', layer, asNode())).body)
  assert.equal(registry.requests.length, 2)
  expired()
  // A store that signs for GET only.
  cdn.fault({ path: /blobs/, method: 'HEAD', status: 403 })
  assert.equal((await upstream.head(ref, 'blobs', layer, asNode())).size, bytes.length)
  cdn.clearFaults()
  // A refusal there is not about the client's rights here.
  cdn.fault({ path: /blobs/, status: 401 })
  assert.equal((await failing(upstream.fetch(ref, 'blobs', layer, asNode()))).code, 'UPSTREAM_STATUS')
  clear()

  for (const redirectStatus of [301, 302, 303, 308]) {
    registry.fault({ path: /manifests/, count: 1, redirect: cdn.url, redirectStatus })
    await upstream.head(ref, 'manifests', 'latest', asNode())
  }
  registry.resetCounters()
  registry.fault({ path: /manifests/, redirect: registry.url })
  assert.equal((await failing(upstream.head(ref, 'manifests', 'latest', asNode()))).details.status, 307)
  assert.equal(registry.requests.length, 6)
})

test('an upstream that cannot be reached is said at once afterwards, and found again', async (t) => {
  const first = await setting(t)
  const { ref, registry } = first
  const upstream = client(t, { retries: 1 })
  await upstream.head(ref, 'manifests', 'latest', asNode())
  const { port } = registry
  await registry.close()
  const refused = await failing(upstream.head(ref, 'manifests', 'latest', asNode()))
  assert.deepEqual([refused.code, refused.details.errno], ['UPSTREAM_UNREACHABLE', 'ECONNREFUSED'])
  const again = await failing(upstream.fetch(ref, 'manifests', 'latest', asNode()))
  assert.deepEqual([again.code, again.details.reason], ['UPSTREAM_UNREACHABLE', 'circuit'])
  await fake(t, { port, contents: registry.contents })
  let head: unknown
  while (!head) {
    await sleep(200)
    head = await upstream.head(ref, 'manifests', 'latest', asNode()).catch(() => undefined)
  }
})

test('a host that never answers costs one patience, then nothing', async (t) => {
  // To us a link that was cut under open connections looks like this.
  const sockets: Socket[] = []
  const server = createServer((socket) => sockets.push(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as { port: number }
  const upstream = client(t, { stallMs: 400, connectMs: 400, retries: 5 })
  const ref = { host: `127.0.0.1:${port}`, repository: 'a/b' }
  const stalled = await failing(upstream.head(ref, 'manifests', 'latest', asNode()))
  assert.equal(stalled.details.reason, 'stall')
  // Silence is tried twice at most, whatever `retries` is.
  assert.equal(stalled.details.attempts, 2)
  const next = await failing(upstream.head(ref, 'manifests', 'latest', asNode()))
  assert.equal(next.details.reason, 'circuit')
})

test('a connection that never comes about is given up in time', async (t) => {
  // It accepts, but TLS gets nowhere: to us there is no connection yet.
  const sockets: Socket[] = []
  const server = createServer((socket) => sockets.push(socket.on('error', () => {})))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as { port: number }
  const mirrors = { 'r.example': `https://127.0.0.1:${port}` }
  const ref = { host: 'r.example', repository: 'a/b' }
  const slow = client(t, { mirrors, connectMs: 60_000 })
  const impatient = await failing(slow.head(ref, 'manifests', 'latest', asNode({ timeoutMs: 100 })))
  assert.equal(impatient.details.reason, 'connect')
  // So little patience says nothing of the host.
  const once = await failing(slow.head(ref, 'manifests', 'latest', asNode({ timeoutMs: 100 })))
  assert.equal(once.details.reason, 'connect')
  const quick = client(t, { mirrors, connectMs: 200 })
  const lost = await failing(quick.head(ref, 'manifests', 'latest', asNode({ timeoutMs: 20_000 })))
  assert.deepEqual([lost.details.reason, lost.details.attempts], ['connect', 2])
  assert.equal((await failing(quick.head(ref, 'manifests', 'latest', asNode()))).details.reason, 'circuit')
})

test('an origin in doubt is waited for no longer than that takes; the doubt ends with an answer', async (t) => {
  // TLS that never comes about is a connection that never does.
  const sockets: Socket[] = []
  const silent = createServer((socket) => sockets.push(socket.on('error', () => {})))
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    silent.close()
  })
  const origin = `https://127.0.0.1:${(silent.address() as { port: number }).port}`
  const registry = await fake(t)
  const blob = registry.addBlob('library/app', Buffer.from('bytes'))
  const upstream = client(t, {
    mirrors: { 'docker.io': origin, 'registry.test': registry.url },
    connectMs: 120_000,
  })
  const gone: string[] = []
  upstream.onUnreachable?.((place) => gone.push(place))
  const ref = { host: 'docker.io', repository: 'library/app' }
  const begun = performance.now()
  const head = upstream.head(ref, 'manifests', 'v1', asNode({ timeoutMs: 120_000 }))
  setTimeout(() => upstream.doubt?.(ref), 50)
  await assert.rejects(head, { code: 'UPSTREAM_UNREACHABLE' })
  assert.ok(performance.now() - begun < 60_000)
  assert.deepEqual(gone, [origin])

  upstream.doubt?.(registry.url)
  const other = { host: 'registry.test', repository: 'library/app' }
  assert.equal((await upstream.head(other, 'blobs', blob, asNode())).size, 5)
})

test('idle connections that died meanwhile cost nothing but a new one', async (t) => {
  const { registry, ref, layer } = await setting(t)
  const upstream = client(t, { retries: 1 })
  const heads = () => Array.from({ length: 8 }, () => upstream.head(ref, 'blobs', layer, asNode()))
  await Promise.all(heads())
  registry.fault({ path: /./, count: 1, hangUp: true })
  await upstream.head(ref, 'blobs', layer, asNode())
  await Promise.all(heads())
  while (registry.connections() > 8) await sleep(10)
})

test('one question after the other goes over one connection', async (t) => {
  const { registry, ref, layer } = await setting(t)
  const upstream = client(t)
  for (let i = 0; i < 3; i++) {
    await upstream.head(ref, 'manifests', 'latest', asNode())
    await failing(upstream.head(ref, 'manifests', 'nope', asNode()))
    await failing(upstream.fetch(ref, 'manifests', 'nope', asNode()))
    await collect((await upstream.fetch(ref, 'blobs', layer, asNode())).body)
  }
  assert.equal(registry.connections(), 1)
})

test('a closed client is closed: what runs ends, what comes is refused', async (t) => {
  const { registry, ref, layer } = await setting(t)
  const upstream = client(t)
  registry.fault({ path: /blobs/, stall: 1000 })
  const { body } = await upstream.fetch(ref, 'blobs', layer, asNode())
  const reading = failing(collect(body))
  await upstream.close()
  assert.equal((await reading).code, 'UPSTREAM_UNREACHABLE')
  assert.equal((await failing(upstream.head(ref, 'blobs', layer, asNode()))).code, 'ABORTED')
})

test('more at once than there are connections: all come through', async (t) => {
  const { registry, ref, layer, bytes } = await setting(t)
  const upstream = client(t)
  const all = Array.from({ length: 40 }, async (_, i) => {
    const range = { start: i * 1000, end: i * 1000 + 5000 }
    const { body } = await upstream.fetch(ref, 'blobs', layer, asNodeWith({ range }))
    assert.deepEqual(await collect(body), bytes.subarray(range.start, range.end))
  })
  await Promise.all(all)
  assert.ok(registry.connections() <= 16)
})

function asNodeWith(more: { range: { start: number; end: number }; via?: string[] }) {
  return { ...asNode(), ...more }
}
