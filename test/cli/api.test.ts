import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request } from 'node:http'
import { networkInterfaces } from 'node:os'
import { after, before, describe, test } from 'node:test'
import { ShoalError } from '../../base/index.ts'
import { type Answer, assertDescribed, document } from './described.ts'
import { digest, startApi, TOKEN } from './standins.ts'

/** fetch() forbids some headers (Host, Origin); this sends what it is given. */
async function send(
  base: string,
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: string,
): Promise<Answer> {
  const req = request(`${base}${path}`, { method, headers })
  req.end(body)
  const [res] = await once(req, 'response')
  let text = ''
  for await (const chunk of res) text += chunk
  return { status: res.statusCode, headers: res.headers, text }
}

const JSON_TYPE = { 'content-type': 'application/json' }

describe('the API', () => {
  let node: Awaited<ReturnType<typeof startApi>>
  before(async () => {
    node = await startApi()
  })
  after(() => node.close())

  test('every route is described, and nothing else is', () => {
    const described = Object.entries(document.paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    )
    assert.deepEqual(described.sort(), [...node.api.routes].sort())
  })

  test('real answers match the description', async () => {
    const started = await send(node.url, 'POST', '/api/v1/images', JSON_TYPE, '{"reference":"redis"}')
    assertDescribed('post', '/api/v1/images', started)
    const { id } = JSON.parse(started.text) as { id: string }
    for (const path of Object.keys(document.paths)) {
      if (path === '/api/v1/events' || !document.paths[path]?.get) continue
      const answer = await send(node.url, 'GET', path.replace('{id}', id))
      assertDescribed('get', path, answer)
    }
    assertDescribed('post', '/api/v1/gc', await send(node.url, 'POST', '/api/v1/gc'))
    assertDescribed('post', '/api/v1/gc', await send(node.url, 'POST', '/api/v1/gc', JSON_TYPE, '{"all":1}'))
    const post = (path: string, body?: string) =>
      send(node.url, 'POST', path, body === undefined ? {} : JSON_TYPE, body)
    assertDescribed('delete', '/api/v1/scrub', await send(node.url, 'DELETE', '/api/v1/scrub'))
    for (const body of [undefined, undefined, '{"bytesPerSecond":0}', '{"bytesPerSecond":"1"}', '[]']) {
      assertDescribed('post', '/api/v1/scrub', await post('/api/v1/scrub', body))
    }
    assertDescribed('get', '/api/v1/scrub', await send(node.url, 'GET', '/api/v1/scrub'))
    assertDescribed('delete', '/api/v1/scrub', await send(node.url, 'DELETE', '/api/v1/scrub'))
    for (const reference of ['redis:7', 'none', 'a b']) {
      const body = JSON.stringify({ reference })
      assertDescribed('post', '/api/v1/pins', await post('/api/v1/pins', body))
      const path = `/api/v1/pins?reference=${encodeURIComponent(reference)}`
      assertDescribed('delete', '/api/v1/pins', await send(node.url, 'DELETE', path))
    }
    assertDescribed('delete', '/api/v1/pins', await send(node.url, 'DELETE', '/api/v1/pins'))
    assertDescribed('delete', '/api/v1/pulls/{id}', await send(node.url, 'DELETE', `/api/v1/pulls/${id}`))
    assertDescribed('get', '/api/v1/pulls/{id}', await send(node.url, 'GET', '/api/v1/pulls/none'))
    assertDescribed('post', '/api/v1/images', await send(node.url, 'POST', '/api/v1/images', JSON_TYPE, '{}'))
    const form = { 'content-type': 'application/x-www-form-urlencoded' }
    assertDescribed('post', '/api/v1/images', await send(node.url, 'POST', '/api/v1/images', form, 'a=b'))
    const long = JSON.stringify({ reference: 'x'.repeat(20_000) })
    assertDescribed('post', '/api/v1/images', await send(node.url, 'POST', '/api/v1/images', JSON_TYPE, long))
    node.readiness.ok('store')
    assertDescribed('get', '/readyz', await send(node.url, 'GET', '/readyz'))
  })

  test('the check above would notice a member too many', () => {
    const headers = { 'content-type': 'application/json' }
    const health = (text: string): void => assertDescribed('get', '/healthz', { status: 200, headers, text })
    health('{"status":"alive"}')
    assert.throws(() => health('{"status":"alive","more":1}'))
    assert.throws(() => health('{}'))
  })

  test('status says what bootstrap and people need', async () => {
    const status = JSON.parse((await send(node.url, 'GET', '/api/v1/status')).text) as Record<string, unknown>
    assert.equal(status.id, '12D3KooWself')
    assert.deepEqual(status.addrs, ['/ip4/127.0.0.1/tcp/5082'])
    assert.equal((status.tasks as unknown[]).length, 1, 'only the tasks under way')
    assert.deepEqual(status.members, { alive: 2, suspect: 0, dead: 0, left: 0 })
    assert.deepEqual(status.store, { bytes: 4096, blocks: 3, borrowed: 8192, kept: 1024, quota: 1 << 20 })
  })

  test('not ready is 503 with the reason', async () => {
    node.readiness.fail('store', 'the disk is on fire')
    const answer = await send(node.url, 'GET', '/readyz')
    assert.equal(answer.status, 503)
    assert.match(answer.text, /the disk is on fire/)
    assert.equal((await send(node.url, 'GET', '/healthz')).status, 200)
    node.readiness.ok('store')
    assert.equal((await send(node.url, 'GET', '/readyz')).status, 200)
  })

  test('a pull: 202 with its place, progress, sums, the end', async () => {
    const started = await send(
      node.url,
      'POST',
      '/api/v1/images',
      JSON_TYPE,
      '{"reference":"redis:7","platform":"linux/arm64"}',
    )
    assert.equal(started.status, 202)
    const place = String(started.headers.location)
    assert.match(place, /^\/api\/v1\/pulls\/[0-9a-f-]{36}$/)
    assert.deepEqual(node.wanted.at(-1), { reference: 'redis:7', platform: 'linux/arm64' })
    const gate = node.gates.at(-1)!
    gate.progress(500)
    const half = JSON.parse((await send(node.url, 'GET', place)).text) as Record<string, unknown>
    assert.equal(half.state, 'running')
    assert.equal(half.size, 1000)
    assert.equal(half.bytesHere, 510)
    assert.deepEqual(half.sources, { local: 0, peers: 10, upstream: 500 })
    gate.go()
    const end = JSON.parse((await send(node.url, 'GET', place)).text) as Record<string, unknown>
    assert.equal(end.state, 'done')
    assert.equal(end.digest, digest('manifest'))
    assert.equal((await send(node.url, 'DELETE', place)).status, 204)
    assert.match((await send(node.url, 'GET', place)).text, /"state":"done"/)
  })

  test('a failed pull carries a problem, a cancelled one does not', async () => {
    const first = await send(node.url, 'POST', '/api/v1/images', JSON_TYPE, '{"reference":"no/such"}')
    node.gates.at(-1)!.go(new ShoalError('NOT_FOUND', 'no such image'))
    const failed = JSON.parse((await send(node.url, 'GET', String(first.headers.location))).text) as {
      state: string
      error: { code: string; status: number }
    }
    assert.equal(failed.state, 'failed')
    assert.deepEqual([failed.error.code, failed.error.status], ['NOT_FOUND', 404])

    const second = await send(node.url, 'POST', '/api/v1/images', JSON_TYPE, '{"reference":"slow"}')
    assert.equal((await send(node.url, 'DELETE', String(second.headers.location))).status, 204)
    const cancelled = JSON.parse((await send(node.url, 'GET', String(second.headers.location))).text) as {
      state: string
      error?: unknown
    }
    assert.deepEqual([cancelled.state, cancelled.error], ['cancelled', undefined])
  })

  test('what is wrong with a request is said as a problem', async () => {
    const cases: [string, string, Record<string, string>, string | undefined, number, string][] = [
      ['POST', '/api/v1/images', JSON_TYPE, '{', 400, 'USAGE'],
      ['POST', '/api/v1/images', JSON_TYPE, '[]', 400, 'USAGE'],
      ['POST', '/api/v1/images', JSON_TYPE, undefined, 400, 'NAME_INVALID'],
      ['POST', '/api/v1/images', JSON_TYPE, '{"reference":"a b"}', 400, 'NAME_INVALID'],
      ['POST', '/api/v1/images', JSON_TYPE, '{"reference":"a","platform":"x"}', 400, 'USAGE'],
      ['POST', '/api/v1/images', JSON_TYPE, '{"reference":"a","plattform":"x"}', 400, 'USAGE'],
      ['PUT', '/api/v1/images', JSON_TYPE, '{}', 405, 'USAGE'],
      ['GET', '/api/v1/nothing', {}, undefined, 404, 'NOT_FOUND'],
      ['GET', '/api/v1/pulls/%zz', {}, undefined, 400, 'USAGE'],
      ['GET', '/api/v1/events?types=tusk', {}, undefined, 400, 'USAGE'],
    ]
    for (const [method, path, headers, body, status, code] of cases) {
      const answer = await send(node.url, method, path, headers, body)
      const what = `${method} ${path} ${body}`
      assert.equal(answer.status, status, what)
      assert.match(String(answer.headers['content-type']), /^application\/problem\+json/, what)
      const problem = JSON.parse(answer.text) as { code: string; status: number; instance: string }
      assert.deepEqual([problem.code, problem.status, problem.instance], [code, status, path], what)
    }
    assert.equal((await send(node.url, 'PUT', '/api/v1/images')).headers.allow, 'GET, HEAD, POST')
  })

  test('what breaks inside tells nothing of the insides', async () => {
    const broken = await startApi({
      images: async () => {
        throw new Error('secret path /etc/shadow')
      },
    })
    const answer = await send(broken.url, 'GET', '/api/v1/images')
    await broken.close()
    assert.equal(answer.status, 500)
    assert.doesNotMatch(answer.text, /secret/)
  })

  test('metrics are in the text form, fresh at each scrape, with few labels', async () => {
    const answer = await send(node.url, 'GET', '/metrics')
    assert.match(String(answer.headers['content-type']), /^text\/plain; version=0\.0\.4/)
    for (const line of [
      'shoal_bytes_total{source="peers"} 300',
      'shoal_bytes_total{source="upstream"} 100',
      'shoal_store_quota_bytes 1048576',
      'shoal_store_borrowed_bytes 8192',
      'shoal_members{state="alive"} 2',
      'shoal_tasks{state="running"} 1',
      'shoal_upstream_failures_total{host="docker.io"} 1',
    ]) {
      assert.ok(answer.text.split('\n').includes(line), line)
    }
    assert.match(answer.text, /^process_resident_memory_bytes \d{7,}/m)
    assert.match(answer.text, /^shoal_event_loop_lag_seconds\{quantile="p99"\} /m)
    const again = await send(node.url, 'GET', '/metrics')
    assert.ok(
      again.text.includes('shoal_bytes_total{source="peers"} 300\n'),
      'a counter is not added up twice',
    )
  })
})

describe('who may change state', () => {
  let node: Awaited<ReturnType<typeof startApi>>
  before(async () => {
    node = await startApi()
  })
  after(() => node.close())

  const local = (): string => `127.0.0.1:${node.port}`
  const cases: [string, () => Record<string, string>, number][] = [
    ['a local command', () => ({}), 200],
    ['a local command by the name localhost', () => ({ host: 'localhost:1' }), 200],
    ["a local command by the node's own name", () => ({ host: 'EDGE-1:5081' }), 200],
    ['the right token', () => ({ authorization: `Bearer ${TOKEN}` }), 200],
    ['the right token by any name', () => ({ authorization: `Bearer ${TOKEN}`, host: 'shoal.example' }), 200],
    ['a wrong token', () => ({ authorization: 'Bearer nonsense' }), 401],
    ['another scheme', () => ({ authorization: 'Basic YTpi' }), 401],
    ['a rebound name', () => ({ host: 'evil.example:5081' }), 403],
    ['a foreign page', () => ({ origin: 'http://evil.example' }), 403],
    ['a page without an origin', () => ({ origin: 'null' }), 403],
    ['a page of another local port', () => ({ origin: 'http://127.0.0.1:1' }), 403],
    ['its own page', () => ({ origin: `http://${local()}`, 'sec-fetch-site': 'same-origin' }), 200],
    ['a browser that says cross-site', () => ({ 'sec-fetch-site': 'cross-site' }), 403],
    ['a proxy on this machine', () => ({ 'x-forwarded-for': '127.0.0.1' }), 401],
    ['a proxy that says Forwarded', () => ({ forwarded: 'for=127.0.0.1' }), 401],
  ]
  for (const [who, headers, status] of cases) {
    test(`${who}: ${status}`, async () => {
      const answer = await send(node.url, 'POST', '/api/v1/gc', headers())
      assert.equal(answer.status, status, answer.text)
      if (status === 401) assert.match(String(answer.headers['www-authenticate']), /^Bearer/)
    })
  }

  test('a method that is not known is guarded as well', async () => {
    assert.equal((await send(node.url, 'PROPFIND', '/api/v1/gc', { host: 'evil.example' })).status, 403)
  })

  test('another machine needs the token', async (t) => {
    const address = Object.values(networkInterfaces())
      .flat()
      .find((item) => item?.family === 'IPv4' && !item.internal)?.address
    if (address === undefined) return t.skip('there is only loopback here')
    const other = await startApi({}, address)
    try {
      assert.equal((await send(other.url, 'GET', '/api/v1/status')).status, 200)
      assert.equal((await send(other.url, 'POST', '/api/v1/gc', { host: '127.0.0.1' })).status, 401)
      const forged = { 'x-forwarded-for': '127.0.0.1', host: '127.0.0.1' }
      assert.equal((await send(other.url, 'POST', '/api/v1/gc', forged)).status, 401)
      const bearer = { authorization: `bearer ${TOKEN}` }
      assert.equal((await send(other.url, 'POST', '/api/v1/gc', bearer)).status, 200)
    } finally {
      await other.close()
    }
  })
})
