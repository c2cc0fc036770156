import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { untilHealthy } from '../../integration/migration/health.ts'
import { anotherRound } from '../../integration/migration/index.ts'
import {
  type Offer,
  packOffer,
  readOffer,
  readOutcome,
  readShipped,
} from '../../integration/migration/messages.ts'
import type { Container, OciSpec, Runtime } from '../../integration/runtime/index.ts'

const DIGEST = `sha256:${'a'.repeat(64)}` as const

test('rounds go on while they shrink', () => {
  const rounds = (...changed: number[]) =>
    changed.map((each) => ({ frozen: false, seconds: 1, changed: each, sent: each }))
  assert.equal(anotherRound([], 5), true)
  assert.equal(anotherRound([], 0), false)
  assert.equal(anotherRound(rounds(160e6), 5), true)
  assert.equal(anotherRound(rounds(160e6), 1), false)
  assert.equal(anotherRound(rounds(160e6, 20e6), 5), true)
  // As fast as it is copied, it changes.
  assert.equal(anotherRound(rounds(160e6, 20e6, 18e6), 5), false)
  // Little enough.
  assert.equal(anotherRound(rounds(160e6, 5e5), 5), false)
})

const OFFER: Offer = {
  id: 'm1',
  container: { id: 'c0ffee', name: 'redis', runtime: 'containerd' },
  recreation: {
    runtime: 'containerd',
    name: 'redis',
    image: { reference: 'redis:7', digest: DIGEST },
    labels: { a: 'b' },
    spec: { ociVersion: '1.0.2', process: { rlimits: [{ hard: 2 ** 64 }] } },
    own: { snapshotter: 'overlayfs' },
  },
  needs: {
    arch: 'x64',
    kernel: '6.1',
    cpu: ['sse2'],
    criu: '4.2',
    oci: { name: 'runc', version: '1.1' },
    cgroups: 'hybrid',
  },
  size: 1e6,
  health: { kind: 'tcp', host: '127.0.0.1', port: 6379 },
  tcpEstablished: false,
}

test('an offer is what was sent, and nothing malformed is taken for one', () => {
  assert.deepEqual(readOffer(packOffer(OFFER)), OFFER)
  const bad: [string, unknown][] = [
    ['id', '../x'],
    ['container', { id: 'a', name: 'a/b', runtime: 'runc' }],
    ['container', { id: 'a', name: '../a', runtime: 'runc' }],
    ['container', { id: 'a', name: 'a', runtime: 'podman' }],
    ['recreation', '{'],
    ['recreation', '[]'],
    ['recreation', JSON.stringify({ ...OFFER.recreation, name: '-rf' })],
    ['recreation', JSON.stringify({ ...OFFER.recreation, image: { reference: 'a', digest: 'md5:1' } })],
    ['recreation', JSON.stringify({ ...OFFER.recreation, labels: { a: 1 } })],
    ['recreation', JSON.stringify({ ...OFFER.recreation, spec: {} })],
    ['needs', { ...OFFER.needs, cgroups: 'v3' }],
    ['needs', { ...OFFER.needs, cpu: 'sse2' }],
    ['size', -1],
    ['size', Number.NaN],
    ['health', { kind: 'tcp', host: '127.0.0.1', port: 70000 }],
    ['health', { kind: 'http', url: 'file:///etc/passwd' }],
    ['health', { kind: 'exec', args: 'rm' }],
  ]
  for (const [name, value] of bad) {
    assert.throws(
      () => readOffer({ ...packOffer(OFFER), [name]: value }),
      { code: 'PROTOCOL' },
      `${name}: ${JSON.stringify(value)}`,
    )
  }
  for (const name of Object.keys(OFFER).filter((each) => each !== 'health' && each !== 'tcpEstablished')) {
    assert.throws(() => readOffer({ ...packOffer(OFFER), [name]: undefined }), { code: 'PROTOCOL' }, name)
  }
  for (const body of [undefined, null, 'x', [], 7]) {
    assert.throws(() => readOffer(body), { code: 'PROTOCOL' })
    assert.throws(() => readOutcome(body), { code: 'PROTOCOL' })
    assert.throws(() => readShipped(body), { code: 'PROTOCOL' })
  }
  assert.throws(() => readOutcome({ verdict: 'maybe' }), { code: 'PROTOCOL' })
  assert.throws(() => readShipped({ id: 'm1', recipe: 'x', writable: DIGEST }), { code: 'PROTOCOL' })
})

/** A container that is this very process, in the host's network. */
function runtimeOf(container: Partial<Container>, codes: number[] = []): Runtime {
  const found = { state: 'running', pid: process.pid, spec: { ociVersion: '1' } as OciSpec, ...container }
  return {
    inspect: async () => found,
    exec: async () => ({ code: codes.shift() ?? 0, output: 'not yet' }),
  } as unknown as Runtime
}

test('a copy is healthy when it runs and answers, and gets its time', async (t) => {
  const { signal } = new AbortController()
  const common = { container: 'c', withinMs: 20_000, signal }
  await untilHealthy({ ...common, runtime: runtimeOf({}), check: undefined })
  await assert.rejects(
    untilHealthy({ ...common, runtime: runtimeOf({ state: 'stopped', pid: undefined }), check: undefined }),
    { code: 'UNFIT', message: 'the container is stopped' },
  )
  await untilHealthy({
    ...common,
    runtime: runtimeOf({}, [1, 1, 0]),
    check: { kind: 'exec', args: ['check'] },
  })
  await assert.rejects(
    untilHealthy({
      ...common,
      withinMs: 100,
      check: { kind: 'exec', args: ['check'] },
      runtime: runtimeOf({}, Array(1000).fill(3)),
    }),
    { code: 'UNFIT', message: 'check ended with 3: not yet' },
  )
  const server = createServer((req, res) => {
    res.statusCode = req.url === '/ok' ? 200 : 500
    res.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  const runtime = runtimeOf({})
  await untilHealthy({ ...common, runtime, check: { kind: 'http', url: `http://127.0.0.1:${port}/ok` } })
  await untilHealthy({ ...common, runtime, check: { kind: 'tcp', host: '127.0.0.1', port } })
  await assert.rejects(
    untilHealthy({
      ...common,
      withinMs: 10,
      runtime,
      check: { kind: 'http', url: `http://127.0.0.1:${port}/bad` },
    }),
    { code: 'UNFIT', message: 'it answers 500' },
  )
})
