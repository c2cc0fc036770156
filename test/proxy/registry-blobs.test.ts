import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import { pseudoRandom } from '../fakes/registry.ts'
import { codeOf, eventually, get, node } from './registry-tools.ts'
import { fill } from './stand-in.ts'
import { fake } from './upstream-tools.ts'

const BYTES = pseudoRandom(1_500_000, 'blob')

test('a blob comes whole and right from upstream, and then from here', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('team/app', BYTES)
  const here = await node(t, registry)
  const first = await here.get(`/v2/registry.test/team/app/blobs/${digest}`)
  assert.equal(first.status, 200)
  assert.ok(first.body.equals(BYTES))
  assert.equal(first.headers['content-length'], String(BYTES.length))
  assert.equal(first.headers['docker-content-digest'], digest)
  assert.equal(first.headers['content-type'], 'application/octet-stream')
  assert.equal(first.headers['accept-ranges'], 'bytes')
  assert.equal(first.headers.etag, `"${digest}"`)
  assert.equal(first.headers['docker-distribution-api-version'], 'registry/2.0')
  assert.equal(first.headers['x-shoal-source'], 'upstream')
  const sent = registry.totalSent()
  const again = await here.get(`/v2/team/app/blobs/${digest}?ns=registry.test`)
  assert.ok(again.body.equals(BYTES))
  assert.equal(again.headers['x-shoal-source'], 'local')
  assert.equal(registry.totalSent(), sent)
  await eventually('all is closed', () => here.manager.openings() === 0 && here.manager.reads() === 0)
  const lines = here.logged.filter(({ message }) => message === 'served').map(({ fields }) => fields)
  assert.deepEqual(
    lines.map(({ status, bytes, local, upstream, repository }) => [
      status,
      bytes,
      local,
      upstream,
      repository,
    ]),
    [
      [200, BYTES.length, 0, BYTES.length, 'registry.test/team/app'],
      [200, BYTES.length, BYTES.length, 0, 'registry.test/team/app'],
    ],
  )
})

test('sha512, no bytes at all, and an upstream without sizes are fine', async (t) => {
  const registry = await fake(t)
  const long = digestOf(BYTES, 'sha512')
  registry.repository('a/b').blobs.set(long, BYTES)
  const empty = registry.addBlob('a/b', Buffer.alloc(0))
  const here = await node(t, registry)
  assert.ok((await here.get(`/v2/a/b/blobs/${long}`)).body.equals(BYTES))
  const nothing = await here.get(`/v2/a/b/blobs/${empty}`)
  assert.deepEqual([nothing.status, nothing.body.length, nothing.broken], [200, 0, false])

  const other = Buffer.concat([BYTES, Buffer.from('x')])
  const unsized = registry.addBlob('a/b', other)
  registry.fault({ path: /blobs/, method: 'GET', chunked: true, noRange: true })
  const chunked = await here.get(`/v2/a/b/blobs/${unsized}`, { range: 'bytes=0-9' })
  assert.deepEqual([chunked.status, chunked.headers['transfer-encoding']], [200, 'chunked'])
  assert.ok(chunked.body.equals(other))
})

test('every form of range is answered as RFC 9110 has it', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('a/b', BYTES)
  const here = await node(t, registry)
  const path = `/v2/a/b/blobs/${digest}`
  const ranged = (range: string, more: Record<string, string> = {}) => here.get(path, { range, ...more })
  for (const [range, start, end] of [
    ['bytes=0-0', 0, 1],
    ['bytes=100-70000', 100, 70_001],
    ['bytes=1400000-', 1_400_000, BYTES.length],
    ['bytes=-5', BYTES.length - 5, BYTES.length],
    ['bytes=1499999-9999999', BYTES.length - 1, BYTES.length],
  ] as const) {
    const answer = await ranged(range)
    assert.equal(answer.status, 206, range)
    assert.ok(answer.body.equals(BYTES.subarray(start, end)), range)
    assert.equal(answer.headers['content-range'], `bytes ${start}-${end - 1}/${BYTES.length}`)
    assert.equal(answer.headers['content-length'], String(end - start))
  }
  const beyond = await ranged('bytes=1500000-')
  assert.deepEqual([beyond.status, beyond.headers['content-range']], [416, `bytes */${BYTES.length}`])
  for (const range of ['bytes=0-1,3-4', 'lines=1-2', 'bytes=5-1', 'nonsense']) {
    assert.equal((await ranged(range)).status, 200, range)
  }
  assert.equal((await ranged('bytes=0-1', { 'if-range': `"${digest}"` })).status, 206)
  assert.equal((await ranged('bytes=0-1', { 'if-range': '"other"' })).status, 200)
  const same = await here.get(path, { 'if-none-match': `W/"${digest}"` })
  assert.deepEqual([same.status, same.body.length, same.headers.etag], [304, 0, `"${digest}"`])
  assert.equal((await here.get(path, { 'if-none-match': '"other"' })).status, 200)
})

test('HEAD tells the size without fetching the blob', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('a/b', BYTES)
  const here = await node(t, registry)
  const path = `/v2/a/b/blobs/${digest}`
  for (const source of ['upstream', 'upstream', 'local']) {
    if (source === 'local') await here.get(path)
    const answer = await here.get(path, {}, 'HEAD')
    assert.deepEqual([answer.status, answer.body.length], [200, 0])
    assert.equal(answer.headers['content-length'], String(BYTES.length))
    assert.equal(answer.headers['x-shoal-source'], source)
    if (source === 'upstream') assert.equal(registry.totalSent(), 0)
  }
  const missing = await here.get(`/v2/a/b/blobs/${digestOf(Buffer.from('x'))}`, {}, 'HEAD')
  assert.deepEqual([missing.status, missing.body.length], [404, 0])
})

test('what cannot be had is said at once and in the form of the spec', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('a/b', BYTES)
  const here = await node(t, registry, { config: { patienceMs: 600 } })
  const path = `/v2/a/b/blobs/${digest}`
  const answers: [string, number, string][] = [
    [`/v2/a/b/blobs/${digestOf(Buffer.from('x'))}`, 404, 'BLOB_UNKNOWN'],
    ['/v2/a/b/manifests/none', 404, 'MANIFEST_UNKNOWN'],
    [`/v2/none/blobs/${digest}`, 404, 'BLOB_UNKNOWN'],
    ['/v2/a/b/blobs/sha256:x', 400, 'DIGEST_INVALID'],
    ['/v2/A/manifests/x', 400, 'NAME_INVALID'],
    ['/v2/../../etc/passwd', 404, 'NAME_UNKNOWN'],
    ['/v2/a%2fb/manifests/x', 400, 'NAME_INVALID'],
    [`/v2/${'a'.repeat(5000)}/manifests/x`, 400, 'NAME_INVALID'],
    ['/', 404, 'NAME_UNKNOWN'],
  ]
  for (const [where, status, code] of answers) {
    const answer = await here.get(where)
    assert.deepEqual([answer.status, codeOf(answer)], [status, code], where)
  }
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    const answer = await here.get(path, {}, method)
    assert.deepEqual([answer.status, codeOf(answer), answer.headers.allow], [405, 'UNSUPPORTED', 'GET, HEAD'])
  }
  for (const [status, expected, code] of [
    [500, 503, 'UNAVAILABLE'],
    [429, 429, 'TOOMANYREQUESTS'],
    [418, 502, 'UNKNOWN'],
    [403, 403, 'DENIED'],
  ] as const) {
    const clear = registry.fault({ path: /blobs/, status, retryAfter: 7 })
    const answer = await here.get(path)
    assert.deepEqual([answer.status, codeOf(answer)], [expected, code])
    clear()
  }
  const stalled = registry.fault({ path: /blobs/, stallHeaders: true })
  const late = await here.get(path)
  assert.deepEqual([late.status, codeOf(late)], [503, 'UNAVAILABLE'])
  assert.equal(late.headers['retry-after'], '5')
  stalled()
})

test('wrong bytes never pass for a blob', async (t) => {
  const registry = await fake(t)
  const small = registry.addBlob('a/b', Buffer.from('small'))
  const large = registry.addBlob('a/b', BYTES)
  const here = await node(t, registry)
  registry.fault({ path: /blobs/, method: 'GET', corrupt: 1 })
  const whole = await here.get(`/v2/a/b/blobs/${small}`)
  assert.deepEqual([whole.status, codeOf(whole)], [502, 'DIGEST_INVALID'])
  const part = await here.get(`/v2/a/b/blobs/${large}`)
  assert.deepEqual([part.status, part.broken], [200, true])
  assert.ok(part.body.length < BYTES.length)
  await eventually('it is told', () =>
    here.logged.some(({ level, message }) => level === 'error' && /broken off/.test(message)),
  )
  assert.equal(here.manager.openings(), 0)
})

test('an upstream that breaks off in the middle cuts the connection, chunked or not', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('a/b', BYTES)
  for (const chunked of [false, true]) {
    const here = await node(t, registry)
    const clear = registry.fault({ path: /blobs/, method: 'GET', truncate: 700_000, chunked })
    const answer = await here.get(`/v2/a/b/blobs/${digest}`)
    assert.ok(answer.broken && answer.status === 200 && answer.body.length < BYTES.length)
    clear()
  }
})

test('a client that goes away ends its read at once, and upstream is left alone', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('a/b', BYTES)
  registry.fault({ path: /blobs/, method: 'GET', stall: 500_000 })
  const here = await node(t, registry)
  const socket = connect(Number(new URL(here.base).port), '127.0.0.1')
  socket.write(`GET /v2/a/b/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
  await new Promise((resolve) => socket.once('data', resolve))
  assert.equal(here.manager.openings(), 1)
  socket.destroy()
  await eventually('all is closed', () => here.manager.openings() === 0 && here.manager.reads() === 0)
  await eventually('the log says so', () => here.logged.some(({ message }) => message === 'given up'))
  await eventually('upstream is left alone', () => registry.requests.every(({ done }) => done))
})

test('a slow client holds up its own read only, and gets all in the end', async (t) => {
  const registry = await fake(t)
  const here = await node(t, registry)
  const bytes = pseudoRandom(16 * 1024 * 1024, 'large')
  const digest = fill(here.manager, bytes)
  registry.repository('a/b').blobs.set(digest, bytes)
  const socket = connect(Number(new URL(here.base).port), '127.0.0.1')
  t.after(() => socket.destroy())
  socket.write(`GET /v2/a/b/blobs/${digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
  await new Promise((resolve) => socket.once('readable', resolve))
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.equal(here.manager.reads(), 1, 'the read waits for the client')
  assert.ok((await here.get(`/v2/a/b/blobs/${digest}`)).body.equals(bytes), 'others do not')
  const parts: Buffer[] = []
  for await (const part of socket) parts.push(part as Buffer)
  const answer = Buffer.concat(parts)
  assert.ok(answer.subarray(answer.indexOf('\r\n\r\n') + 4).equals(bytes))
})

test('a request that came through this node before is a loop', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('a/b', BYTES) as Digest
  const here = await node(t, registry)
  const loop = await get(here.base, `/v2/a/b/blobs/${digest}`, { 'x-shoal-via': 'other, self' })
  assert.deepEqual([loop.status, codeOf(loop)], [508, 'UNSUPPORTED'])
  const long = await get(here.base, `/v2/a/b/blobs/${digest}`, {
    'x-shoal-via': Array.from('abcdefghi').join(),
  })
  assert.equal(long.status, 508)
  assert.equal((await get(here.base, `/v2/a/b/blobs/${digest}`, { 'x-shoal-via': 'other' })).status, 200)
  for (const { headers } of registry.requests) assert.equal(headers['x-shoal-via'], 'other, self')
})

test('two nodes that are each other’s upstream say so instead of asking for ever', async (t) => {
  const urls: string[] = []
  const late = {
    get url() {
      return urls[0] ?? 'http://127.0.0.1:1'
    },
  }
  const one = await node(t, late, { id: 'one' })
  const two = await node(t, { url: one.base }, { id: 'two' })
  // The first was made before the second had an address: a third closes the circle.
  const three = await node(t, { url: two.base }, { id: 'one' })
  const answer = await three.get('/v2/a/b/manifests/latest')
  assert.deepEqual([answer.status, codeOf(answer)], [508, 'UNSUPPORTED'])
})

test('a thin uplink gets its time once the blob is on its way', async (t) => {
  // The headers come at once, the only chunk some 700 ms later.
  const registry = await fake(t, { bytesPerSecond: 20_000 })
  const bytes = pseudoRandom(15_000, 'thin')
  const digest = registry.addBlob('a/b', bytes)
  const here = await node(t, registry, { config: { patienceMs: 400 } })
  const answer = await here.get(`/v2/a/b/blobs/${digest}`)
  assert.deepEqual([answer.status, answer.broken], [200, false])
  assert.ok(answer.body.equals(bytes))
})
