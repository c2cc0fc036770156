import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isShoalError, silentLog } from '../../base/index.ts'
import { backoffMs, retryAfterMs } from '../../proxy/upstream/backoff.ts'
import { createBody } from '../../proxy/upstream/body.ts'
import { parseChallenges } from '../../proxy/upstream/challenge.ts'
import { createCircuits } from '../../proxy/upstream/circuit.ts'
import { Failure } from '../../proxy/upstream/failure.ts'
import { createHosts } from '../../proxy/upstream/hosts.ts'
import { extentOf, parseContentRange, rangeHeader, unsatisfiedSize } from '../../proxy/upstream/range.ts'
import { createRequester } from '../../proxy/upstream/requester.ts'

test('challenges: one, several, quoted commas and escapes, token68', () => {
  assert.deepEqual(parseChallenges('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"'), [
    { scheme: 'bearer', params: { realm: 'https://a/t', service: 's', scope: 'repository:x:pull,push' } },
  ])
  assert.deepEqual(
    parseChallenges(
      'Negotiate YWJj==, Basic realm="a \\"b\\", c" , charset=UTF-8,Digest,, Bearer REALM = "r"',
    ),
    [
      { scheme: 'negotiate', params: {} },
      { scheme: 'basic', params: { realm: 'a "b", c', charset: 'UTF-8' } },
      { scheme: 'digest', params: {} },
      { scheme: 'bearer', params: { realm: 'r' } },
    ],
  )
  assert.deepEqual(parseChallenges('Basic'), [{ scheme: 'basic', params: {} }])
  assert.deepEqual(parseChallenges(''), [])
  assert.deepEqual(parseChallenges('Bearer realm="never closed'), [{ scheme: 'bearer', params: {} }])
})

test('challenges: any text ends, and what was written is read back', () => {
  fc.assert(fc.property(fc.string({ maxLength: 300 }), (text) => Array.isArray(parseChallenges(text))))
  const name = fc.stringMatching(/^[a-z][a-z0-9_-]{0,8}$/)
  const value = fc.string({ maxLength: 20 })
  const one = fc.record({ scheme: name, params: fc.dictionary(name, value, { minKeys: 1, maxKeys: 4 }) })
  fc.assert(
    fc.property(fc.array(one, { maxLength: 4 }), (list) => {
      const text = list
        .map(({ scheme, params }) => {
          const pairs = Object.entries(params).map(
            ([key, text]) => `${key}="${text.replaceAll(/["\\]/g, '\\$&')}"`,
          )
          return `${scheme} ${pairs.join(', ')}`
        })
        .join(', ')
      const plain = list.map(({ scheme, params }) => ({ scheme, params: { ...params } }))
      assert.deepEqual(parseChallenges(text), plain)
    }),
  )
})

test('ranges are written and read strictly', () => {
  assert.equal(rangeHeader(undefined), undefined)
  assert.equal(rangeHeader({ start: 0, end: undefined }), undefined)
  assert.equal(rangeHeader({ start: 5, end: undefined }), 'bytes=5-')
  assert.equal(rangeHeader({ start: 0, end: 1 }), 'bytes=0-0')
  assert.deepEqual(parseContentRange('bytes 0-9/10'), { first: 0, last: 9, size: 10 })
  assert.deepEqual(parseContentRange('bytes 3-3/*'), { first: 3, last: 3, size: undefined })
  for (const bad of [
    undefined,
    'bytes 0-9/9',
    'bytes 9-0/10',
    'bytes */10',
    'items 0-9/10',
    'bytes 0-9/10 ',
  ]) {
    assert.equal(parseContentRange(bad), undefined)
  }
  assert.equal(unsatisfiedSize('bytes */10'), 10)
  assert.equal(unsatisfiedSize('bytes 0-1/10'), undefined)
})

test('a partial answer must be the part that was asked for', () => {
  const answer = (contentRange: string, length?: string) => ({
    status: 206,
    headers: { 'content-range': contentRange, ...(length === undefined ? {} : { 'content-length': length }) },
    body: undefined as never,
  })
  const asked = { start: 10, end: 20 }
  assert.deepEqual(extentOf(answer('bytes 10-19/100', '10'), asked, 'x'), {
    start: 10,
    size: 100,
    ranged: true,
    length: 10,
  })
  // Less than asked, though there is more: the rest is owed.
  assert.equal(extentOf(answer('bytes 10-14/100'), asked, 'x').length, 10)
  // The blob ends before the range does.
  assert.equal(extentOf(answer('bytes 10-14/15'), asked, 'x').length, 5)
  for (const wrong of ['bytes 0-9/100', 'bytes 10-20/100', 'bytes 11-19/100', '']) {
    assert.throws(
      () => extentOf(answer(wrong), asked, 'x'),
      (error) => isShoalError(error, 'UPSTREAM_STATUS'),
    )
  }
  assert.throws(() => extentOf(answer('bytes 10-19/100', '11'), asked, 'x'))
})

test('back-off grows within bounds, Retry-After is read in both forms', () => {
  assert.equal(
    backoffMs(0, () => 0),
    100,
  )
  assert.equal(
    backoffMs(0, () => 1),
    200,
  )
  assert.ok(backoffMs(30) <= 5000)
  assert.equal(retryAfterMs('7'), 7000)
  assert.equal(retryAfterMs('Thu, 01 Jan 1970 00:00:10 GMT', 4000), 6000)
  assert.equal(retryAfterMs('Thu, 01 Jan 1970 00:00:10 GMT', 40_000), 0)
  for (const bad of [undefined, '', '-1', 'soon', '1.5']) assert.equal(retryAfterMs(bad), undefined)
})

test('hosts: defaults, mappings, prefixes, official images', () => {
  const hosts = createHosts({
    'registry.example': 'http://127.0.0.1:5000',
    'harbor.example': 'https://h.example/hub-proxy/',
    'sub.example:444': 'https://h.example/registry/v2',
  })
  const at = (host: string, repository: string) => {
    const { origin, path, repository: name } = hosts.resolve({ host, repository })
    return `${origin}${path} ${name}`
  }
  assert.equal(at('docker.io', 'alpine'), 'https://registry-1.docker.io/v2/library/alpine library/alpine')
  assert.equal(at('index.docker.io', 'a/b'), 'https://registry-1.docker.io/v2/a/b a/b')
  assert.equal(at('GHCR.io', 'a/b'), 'https://ghcr.io/v2/a/b a/b')
  assert.equal(at('localhost:5000', 'x'), 'http://localhost:5000/v2/x x')
  assert.equal(at('[::1]:5000', 'x'), 'http://[::1]:5000/v2/x x')
  assert.equal(at('registry.example', 'x'), 'http://127.0.0.1:5000/v2/x x')
  assert.equal(at('harbor.example', 'x'), 'https://h.example/v2/hub-proxy/x hub-proxy/x')
  assert.equal(at('sub.example:444', 'x'), 'https://h.example/registry/v2/x x')
  const hub = createHosts({ 'docker.io': 'https://mirror.example' })
  assert.equal(hub.resolve({ host: 'docker.io', repository: 'alpine' }).path, '/v2/library/alpine')

  for (const [host, repository] of [
    ['a/b', 'x'],
    ['a@b', 'x'],
    ['', 'x'],
    ['a.example', '../x'],
    ['a.example', 'X'],
    ['a.example', 'x?y'],
    ['a.example:99999', 'x'],
  ] as const) {
    assert.throws(
      () => hosts.resolve({ host, repository }),
      (error) => isShoalError(error, 'NAME_INVALID'),
      `${host}/${repository}`,
    )
  }
  for (const bad of ['ftp://x', 'x', 'https://u:p@x', 'https://x?y']) {
    assert.throws(
      () => createHosts({ h: bad }),
      (error) => isShoalError(error, 'CONFIG') && !error.message.includes('u:p'),
    )
  }
})

test('a broken circuit refuses at once, lets one probe through, and closes with it', () => {
  let now = 0
  const circuits = createCircuits(() => now)
  circuits.enter('a').failed(true)
  circuits.enter('a')
  circuits.open('a', 'refused')
  const refused = (error: unknown): boolean => isShoalError(error, 'UPSTREAM_UNREACHABLE')
  assert.throws(() => circuits.enter('a'), refused)
  circuits.enter('b')
  now = 2001
  const probe = circuits.enter('a')
  assert.equal(probe.probe, true)
  assert.throws(() => circuits.enter('a'), refused)
  probe.failed(true)
  assert.throws(() => circuits.enter('a'), refused)
  now = 4002
  circuits.enter('a').failed(false)
  const second = circuits.enter('a')
  assert.equal(second.probe, true)
  second.reached()
  assert.equal(circuits.enter('a').probe, false)
})

test('an origin that one attempt found out of reach is said to be, though the last one had no time left to tell', async () => {
  const circuits = createCircuits()
  const failed = (dead: boolean): Failure =>
    new Failure('connect', '', { passing: dead, silent: false, dead })
  const failures = [failed(true), failed(false)]
  const transport = {
    send: () => Promise.reject(failures.shift()),
    renew: () => {},
    doubt: () => {},
    close: async () => {},
  }
  const requester = createRequester({ transport, circuits, retries: 3, log: silentLog() })
  const url = new URL('http://a.example/v2/')
  const request = {
    url,
    method: 'HEAD',
    headers: {},
    ownHeaders: {},
    verified: false,
    where: 'a.example',
  } as const
  const { signal } = new AbortController()
  const unreachable = (error: unknown): boolean => isShoalError(error, 'UPSTREAM_UNREACHABLE')
  await assert.rejects(
    requester.ask({ ...request, signal, deadline: performance.now() + 60_000 }),
    unreachable,
  )
  assert.equal(failures.length, 0)
  assert.throws(() => circuits.enter(url.origin), unreachable)
})

test('a body that came whole is whole, although its connection broke before it was read', async () => {
  const flow = { pause: () => {}, resume: () => {}, abort: () => {} }
  const options = { flow, stallMs: 1000, signal: new AbortController().signal, where: 'host/app' }
  for (const [bytes, expected, whole] of [
    [4, 4, true],
    [3, 4, false],
    [4, undefined, false],
  ] as const) {
    const { body, sink } = createBody(options)
    body.expected = expected
    sink.push(Buffer.alloc(bytes))
    sink.fail(new Error('reset'))
    const read = (async () => {
      let sum = 0
      for await (const chunk of body) sum += chunk.length
      return sum
    })()
    if (whole) assert.equal(await read, bytes)
    else await assert.rejects(read, { code: 'UPSTREAM_UNREACHABLE', message: /broken off/ })
  }
})

test("an empty chunk is the parser's own: it is not freed", async () => {
  const flow = { pause: () => {}, resume: () => {}, abort: () => {} }
  const { body, sink } = createBody({
    flow,
    stallMs: 1000,
    signal: new AbortController().signal,
    where: 'host/app',
  })
  const [empty, full] = [new Uint8Array(0), new Uint8Array(4)]
  for (const chunk of [empty, full]) sink.push(chunk)
  sink.end()
  const read = await Array.fromAsync(body)
  assert.deepEqual(read, [full])
  assert.equal(full.buffer.detached, true, 'its memory is given back once it was read')
  assert.equal(empty.buffer.detached, false)
})
