import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf, isShoalError, ShoalError } from '../../base/index.ts'
import { formatReference, hostPlatform, parsePlatform, parseReference } from '../../proxy/index.ts'
import { choosePlatform } from '../../proxy/platform.ts'
import { failureOf, isOutage } from '../../proxy/registry/failure.ts'
import { nextLink } from '../../proxy/registry/lists.ts'
import { readManifest } from '../../proxy/registry/manifest.ts'
import { acceptsIndex, cleanMediaType, normalizeAccept } from '../../proxy/registry/media.ts'
import { isName } from '../../proxy/registry/names.ts'
import { chooseRange, ifRange, noneMatch } from '../../proxy/registry/ranges.ts'
import { fallbackTag } from '../../proxy/registry/referrers.ts'
import { parseRoute } from '../../proxy/registry/route.ts'
import { createShare } from '../../proxy/registry/share.ts'

const digest = digestOf(Buffer.from('something'))
const digest512 = digestOf(Buffer.from('something'), 'sha512')
const where = (url: string): unknown => {
  const route = parseRoute(url, 'docker.io')
  return 'ref' in route ? `${route.ref.host} ${route.ref.repository}` : route.type
}
const fails = (work: () => unknown, code: string): void =>
  assert.throws(work, (error) => isShoalError(error) && error.code === code)

test('a path says which upstream and repository are meant', () => {
  assert.equal(where('/v2/'), 'ping')
  assert.equal(where('/v2'), 'ping')
  assert.equal(where('/v2/redis/manifests/7'), 'docker.io library/redis')
  assert.equal(where('/v2/bitnami/redis/manifests/7'), 'docker.io bitnami/redis')
  assert.equal(where('/v2/docker.io/redis/manifests/7'), 'docker.io library/redis')
  assert.equal(where('/v2/index.docker.io/redis/manifests/7'), 'docker.io library/redis')
  assert.equal(where('/v2/ghcr.io/a/b/c/manifests/7'), 'ghcr.io a/b/c')
  assert.equal(where('/v2/localhost/a/manifests/7'), 'localhost a')
  assert.equal(where('/v2/10.0.0.1:5000/a/manifests/7'), '10.0.0.1:5000 a')
  assert.equal(where('/v2/10.0.0.1%3A5000/a/manifests/7'), '10.0.0.1:5000 a')
  assert.equal(where('/v2/redis/manifests/7?ns=docker.io'), 'docker.io library/redis')
  assert.equal(where('/v2/a/b/manifests/7?ns=Registry.Test:5000'), 'registry.test:5000 a/b')
  assert.equal(where('/v2/a/b/manifests/7?ns='), 'docker.io a/b')
  assert.equal(where('/v2/my.app/b/manifests/7?ns=ghcr.io'), 'ghcr.io my.app/b', 'ns counts before a prefix')
  assert.equal(where('/v2/my.app/manifests/7'), 'docker.io library/my.app', 'a host needs more after it')
  assert.equal(where('/v2/a/manifests/tags/list'), 'docker.io a/manifests')
  assert.equal(where(`/v2/a/blobs/${digest}`), 'docker.io library/a')
  assert.equal(where(`/v2/a/blobs/${digest512}`), 'docker.io library/a')
  assert.equal(where(`/v2/a/blobs/${digest.replace(':', '%3a')}`), 'docker.io library/a')
  assert.equal(where(`/v2/a/referrers/${digest}?artifactType=x`), 'docker.io library/a')
})

test('a path that is none is refused with the code for it', () => {
  for (const path of [
    '/',
    '/v1/a',
    '/v2/a',
    '/v2/_catalog',
    '/v2/blobs/uploads/',
    '/v2/a/tags/other',
    '/v2x/',
  ])
    fails(() => where(path), 'NOT_FOUND')
  const bad = [
    'A',
    'a//b',
    '../a',
    'a/..',
    'a%2Fb',
    'a%2f..%2fb',
    '%2e%2e',
    'a_',
    '-a',
    'a___b',
    'a%',
    'a%00',
    'ä',
  ]
  for (const name of [...bad, 'a'.repeat(300)]) fails(() => where(`/v2/${name}/manifests/x`), 'NAME_INVALID')
  fails(() => where('/v2//manifests/x'), 'NAME_INVALID')
  for (const ns of ['a b', 'a/b', 'a..b', 'a:0', 'a:99999', '[', '-', 'x@y', `${'a'.repeat(64)}.b`])
    fails(() => where(`/v2/a/manifests/x?ns=${encodeURIComponent(ns)}`), 'NAME_INVALID')
  for (const blob of ['x', 'sha256:12', `sha1:${'0'.repeat(40)}`, digest.toUpperCase(), `${digest}0`, '..'])
    fails(() => where(`/v2/a/blobs/${blob}`), 'DIGEST_INVALID')
  fails(() => where('/v2/a/manifests/sha256:12'), 'DIGEST_INVALID')
  for (const tag of ['.x', '-x', 'x'.repeat(129), 'a%20b', ''])
    fails(() => where(`/v2/a/manifests/${tag}`), 'NOT_FOUND')
})

test('no path whatever gets more than a name, a tag and a digest out of the parser', () => {
  const piece = fc.oneof(
    fc.constantFrom(
      'v2',
      'manifests',
      'blobs',
      'tags',
      'list',
      'a',
      '..',
      '%2f',
      '%',
      '',
      digest,
      'x.y',
      ':',
      '@',
    ),
    fc.string({ maxLength: 8 }),
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
      try {
        const route = parseRoute(`/v2/${pieces.join('/')}`, 'docker.io')
        if ('ref' in route) assert.ok(isName(route.ref.repository) && !/[/?#\s]/.test(route.ref.host))
      } catch (error) {
        assert.ok(isShoalError(error, 'NAME_INVALID', 'DIGEST_INVALID', 'NOT_FOUND'))
      }
    }),
  )
})

test('ranges follow RFC 9110', () => {
  const cases: [string | undefined, ReturnType<typeof chooseRange>][] = [
    [undefined, 'all'],
    ['bytes=0-9', { start: 0, end: 10 }],
    ['bytes=5-', { start: 5, end: 100 }],
    ['bytes=-7', { start: 93, end: 100 }],
    ['bytes=-700', { start: 0, end: 100 }],
    ['bytes=90-900', { start: 90, end: 100 }],
    [' BYTES = 1 - 2 ', { start: 1, end: 3 }],
    ['bytes=99-99', { start: 99, end: 100 }],
    ['bytes=100-', 'unsatisfiable'],
    ['bytes=500-600', 'unsatisfiable'],
    ['bytes=-0', 'unsatisfiable'],
    ['bytes=9-5', 'all'],
    ['bytes=0-1,5-6', 'all'],
    ['lines=0-1', 'all'],
    ['bytes=-', 'all'],
    ['bytes=a-b', 'all'],
    ['bytes=99999999999999999999-', 'unsatisfiable'],
  ]
  for (const [header, expected] of cases) assert.deepEqual(chooseRange(header, 100), expected, header)
  assert.equal(chooseRange('bytes=0-', 0), 'unsatisfiable')
  assert.equal(chooseRange('bytes=-5', 0), 'unsatisfiable')
})

test('entity tags are compared weakly for If-None-Match and strongly for If-Range', () => {
  assert.ok(noneMatch('"a"', '"a"') && noneMatch('W/"a"', '"a"') && noneMatch('"x", "a"', '"a"'))
  assert.ok(noneMatch('*', '"a"') && !noneMatch('"x"', '"a"') && !noneMatch(undefined, '"a"'))
  assert.ok(ifRange(undefined, '"a"') && ifRange('"a"', '"a"'))
  assert.ok(!ifRange('W/"a"', '"a"') && !ifRange('Mon, 01 Jan 2024 00:00:00 GMT', '"a"'))
})

test('an error gets the status and the code of the distribution spec', () => {
  const seen = (error: unknown): string => {
    const { status, code } = failureOf(error, 'blob')
    return `${status} ${code}`
  }
  const status = (value: number): ShoalError =>
    new ShoalError('UPSTREAM_STATUS', 'x', { details: { status: value } })
  assert.equal(seen(new ShoalError('NOT_FOUND', '')), '404 BLOB_UNKNOWN')
  assert.equal(seen(new ShoalError('DENIED', '')), '403 DENIED')
  assert.equal(seen(new ShoalError('UPSTREAM_UNREACHABLE', '')), '503 UNAVAILABLE')
  assert.equal(seen(status(429)), '429 TOOMANYREQUESTS')
  assert.equal(seen(status(500)), '503 UNAVAILABLE')
  assert.equal(seen(status(418)), '502 UNKNOWN')
  assert.equal(seen(status(508)), '508 UNSUPPORTED')
  assert.equal(seen(new TypeError('secret')), '500 UNKNOWN')
  assert.ok(!failureOf(new TypeError('secret'), 'blob').message.includes('secret'))
  const challenge = (text: string): unknown =>
    failureOf(new ShoalError('UNAUTHORIZED', '', { details: { challenge: text } }), 'name').headers
  assert.deepEqual(challenge('Bearer realm="x"'), { 'WWW-Authenticate': 'Bearer realm="x"' })
  assert.deepEqual(challenge('Bearer\r\nSet-Cookie: x'), {})
  assert.ok(
    isOutage(status(503)) && isOutage(status(429)) && !isOutage(status(404)) && !isOutage(status(508)),
  )
})

test('manifests of every generation are read, and nonsense is left out', () => {
  const read = (json: unknown, type?: string): ReturnType<typeof readManifest> =>
    readManifest(Buffer.from(JSON.stringify(json)), type)
  const entry = { digest, size: 9, mediaType: 'x/y' }
  const oci = read({ config: entry, layers: [entry, entry, { digest: 'nope' }, 7], subject: entry })
  assert.equal(oci?.mediaType, 'application/vnd.oci.image.manifest.v1+json')
  assert.equal(oci?.layers.length, 1)
  assert.equal(oci?.subject?.digest, digest)
  assert.equal(read({ manifests: [entry] })?.mediaType, 'application/vnd.oci.image.index.v1+json')
  const v1 = read({ schemaVersion: 1, fsLayers: [{ blobSum: digest }], signatures: [] })
  assert.equal(v1?.mediaType, 'application/vnd.docker.distribution.manifest.v1+prettyjws')
  assert.equal(v1?.layers[0]?.digest, digest)
  assert.equal(read({ mediaType: 'a/b' }, 'text/plain')?.mediaType, 'a/b', 'the document knows better')
  const docker = 'application/vnd.docker.distribution.manifest.v2+json'
  assert.equal(read({ mediaType: 'a/b' }, docker)?.mediaType, docker)
  assert.equal(read([1]), undefined)
  assert.equal(readManifest(Buffer.from('{'), undefined), undefined)
  fc.assert(fc.property(fc.json(), (json) => void readManifest(Buffer.from(json), undefined)))
})

test('media types are cleaned, and Accept headers compared by what they mean', () => {
  assert.equal(cleanMediaType('text/plain; charset=utf-8'), 'text/plain; charset=utf-8')
  assert.equal(cleanMediaType('text/plain\r\nX: y'), undefined)
  assert.equal(normalizeAccept('b/c;q=0.5, A/B,b/c'), 'a/b,b/c')
  assert.ok(acceptsIndex('*/*') && acceptsIndex('x/y, application/vnd.oci.image.index.v1+json'))
  assert.ok(!acceptsIndex('application/vnd.docker.distribution.manifest.v2+json'))
})

test('links to the next page lead to us, in the form that the client used', () => {
  const page = { path: '/v2/h.io/a/tags/list', ns: undefined, query: new URLSearchParams() }
  assert.equal(
    nextLink('</v2/a/tags/list?n=2&last=b%2Bc>; rel="next"', page),
    '</v2/h.io/a/tags/list?n=2&last=b%2Bc>; rel="next"',
  )
  assert.equal(
    nextLink('<https://h.io/v2/a/tags/list?next_page=x>;rel=next', { ...page, ns: 'h.io' }),
    '</v2/h.io/a/tags/list?next_page=x&ns=h.io>; rel="next"',
  )
  assert.equal(nextLink('<x>; rel="prev"', page), undefined)
  assert.equal(nextLink(undefined, page), undefined)
})

test('image references are read as docker does', () => {
  const whole = (text: string): string => formatReference(parseReference(text))
  assert.equal(whole('redis'), 'docker.io/library/redis:latest')
  assert.equal(whole('a/b:1'), 'docker.io/a/b:1')
  assert.equal(whole('localhost/b'), 'localhost/b:latest')
  assert.equal(whole('localhost:5000/a/b:v1'), 'localhost:5000/a/b:v1')
  assert.equal(whole(`redis@${digest}`), `docker.io/library/redis@${digest}`)
  assert.equal(whole(`redis:7@${digest}`), `docker.io/library/redis:7@${digest}`)
  for (const text of ['', 'Redis', 'a/b:', 'a b', 'a:b:c', '/a', 'http://x/y', 'a/b:x/y:'])
    fails(() => whole(text), 'NAME_INVALID')
  fails(() => whole('redis@sha256:12'), 'DIGEST_INVALID')
})

test('of an index the entry for the platform is chosen', () => {
  const entry = (text: string, mediaType = 'application/vnd.oci.image.manifest.v1+json') => {
    const [os = '', architecture = '', variant] = text.split('/')
    const platform = { os, architecture, ...(variant === undefined ? {} : { variant }) }
    return { digest: digestOf(Buffer.from(text)), size: 1, mediaType, platform }
  }
  const entries = ['unknown/unknown', 'linux/arm/v6', 'linux/arm/v7', 'linux/amd64', 'linux/arm64/v8'].map(
    (one) => entry(one),
  )
  const chosen = (text: string): string | undefined => {
    const platform = choosePlatform(entries, parsePlatform(text))?.platform
    return platform && [platform.os, platform.architecture, platform.variant ?? '-'].join('/')
  }
  assert.equal(chosen('amd64'), 'linux/amd64/-')
  assert.equal(chosen('linux/x86_64'), 'linux/amd64/-')
  assert.equal(chosen('linux/arm64'), 'linux/arm64/v8')
  assert.equal(chosen('linux/arm/v7'), 'linux/arm/v7')
  assert.equal(chosen('linux/arm/v8'), 'linux/arm/v7', 'the best lower one')
  assert.equal(chosen('linux/arm/v5'), undefined, 'never a higher one')
  assert.equal(chosen('windows/amd64'), undefined)
  assert.deepEqual(hostPlatform('x64'), { os: 'linux', architecture: 'amd64' })
  fails(() => parsePlatform('a/b/c/d'), 'USAGE')
  fails(() => parsePlatform('/'), 'USAGE')
})

test('the fallback tag of a digest fits into a tag', () => {
  assert.equal(fallbackTag(digest), digest.replace(':', '-'))
  assert.equal(fallbackTag(digest512).length, 'sha512-'.length + 64)
})

test('shared work runs once, outlives who leaves, and ends when all have left', async () => {
  const share = createShare<number>()
  let runs = 0
  let stopped = false
  let finish = (_: number): void => {}
  const work = (signal: AbortSignal): Promise<number> => {
    runs++
    signal.addEventListener('abort', () => {
      stopped = true
    })
    return new Promise((resolve) => {
      finish = resolve
    })
  }
  const [one, two] = [new AbortController(), new AbortController()]
  const first = share('key', one.signal, work)
  const second = share('key', two.signal, work)
  one.abort()
  await assert.rejects(first, { code: 'ABORTED' })
  assert.equal(stopped, false)
  finish(7)
  assert.equal(await second, 7)
  assert.equal(runs, 1)
  const third = share('key', two.signal, work)
  two.abort()
  await assert.rejects(third, { code: 'ABORTED' })
  assert.deepEqual([runs, stopped], [2, true])
  await assert.rejects(share('key', two.signal, work), { code: 'ABORTED' })
  assert.equal(runs, 2)
})
