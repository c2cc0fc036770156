import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ShoalError } from '../../base/index.ts'
import { watchUpstream } from '../../cli/upstream-health.ts'
import type { Upstream } from '../../proxy/index.ts'

const ref = (host: string) => ({ host, repository: 'a' })
const options = { credential: { kind: 'node' as const }, signal: new AbortController().signal }

function body(chunks: number, end?: Error) {
  const state = { returned: false }
  let left = chunks
  const iterator = {
    next: async () => {
      if (left-- > 0) return { done: false as const, value: Buffer.from('x') }
      if (end) throw end
      return { done: true as const, value: undefined }
    },
    return: async () => {
      state.returned = true
      return { done: true as const, value: undefined }
    },
  }
  return { state, body: { [Symbol.asyncIterator]: () => iterator } }
}

async function drain(chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let count = 0
  for await (const chunk of chunks) count += chunk.length
  return count
}

function upstreamOf(act: () => unknown): Upstream {
  return {
    head: async () => act(),
    fetch: async () => act(),
    origin: () => ({ label: 'h/a', fetch: async () => act() }),
    close: async () => {},
  } as unknown as Upstream
}

test('answers and refusals are fine, what cannot be reached is a failure, what was given up is neither', async () => {
  let act: () => unknown = () => ({})
  const { upstream, health } = watchUpstream(
    upstreamOf(() => act()),
    () => 42,
  )
  await upstream.head(ref('h'), 'blobs', 'x', options)
  for (const code of ['NOT_FOUND', 'UPSTREAM_UNREACHABLE', 'ABORTED'] as const) {
    act = () => {
      throw new ShoalError(code, `it is ${code}`)
    }
    await assert.rejects(upstream.head(ref('h'), 'blobs', 'x', options), { code })
  }
  assert.deepEqual(health(), [
    {
      host: 'h',
      requests: 4,
      failures: 1,
      lastOkAt: 42,
      lastFailureAt: 42,
      lastError: 'it is UPSTREAM_UNREACHABLE',
    },
  ])
})

test('a body that breaks off counts, and one that nobody begins can be given back', async () => {
  let made = body(2)
  const { upstream, health } = watchUpstream(upstreamOf(() => ({ start: 0, body: made.body })))
  const origin = upstream.origin(ref('h'), 'blobs', 'x', { kind: 'node' })
  assert.equal(origin.label, 'h/a')
  const whole = await origin.fetch({ start: 0, end: undefined }, options.signal)
  assert.equal(await drain(whole.body), 2)

  made = body(1, new ShoalError('UPSTREAM_UNREACHABLE', 'it stalled'))
  const broken = await origin.fetch({ start: 0, end: undefined }, options.signal)
  await assert.rejects(drain(broken.body), { message: 'it stalled' })
  assert.deepEqual([health()[0]?.requests, health()[0]?.failures], [2, 1])

  made = body(1)
  const unread = await upstream.fetch(ref('h'), 'blobs', 'x', options)
  await unread.body[Symbol.asyncIterator]().return?.()
  assert.equal(made.state.returned, true)
})

test('clients cannot make it remember hosts without end', async () => {
  const { upstream, health } = watchUpstream(upstreamOf(() => ({})))
  for (let i = 0; i < 100; i++) await upstream.head(ref(`host-${i}`), 'blobs', 'x', options)
  assert.equal(health().length, 33)
  assert.deepEqual(health().at(-1)?.requests, 68)
})
