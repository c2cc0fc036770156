import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { ShoalError, silentLog } from '../../base/index.ts'
import { createBucket } from '../../manager/wire/bucket.ts'
import { createGate } from '../../manager/wire/turns.ts'
import { createUploadDesk, type Job, type Lane } from '../../manager/wire/uploads.ts'
import { until } from './wire-nodes.ts'

const KIB = 1024

function lane(more: Partial<Lane> = {}): Lane {
  return { onLoaded() {}, onFailed() {}, stuckMs: () => 0, ...more }
}

function job(peer: string, more: Partial<Job> = {}): Job {
  return {
    peer,
    id: 1,
    cid: 'x',
    length: 512 * KIB,
    priority: 'client',
    lane: lane(),
    abort: new AbortController(),
    offset: 0,
    block: undefined,
    state: 'queued',
    ...more,
  }
}

function desk(
  maxBlocks: number,
  more: { pooled?: number; provide?: Parameters<typeof createUploadDesk>[0]['provide'] } = {},
) {
  return createUploadDesk({
    provide: more.provide ?? (async (_cid, _signal, into) => into ?? Buffer.alloc(512 * KIB)),
    maxBytes: maxBlocks * 512 * KIB,
    perPeer: 2,
    pooled: more.pooled ?? 0,
    log: silentLog(),
  })
}

test('places go round among peers, clients first, and nobody gets more than two', async () => {
  const uploads = desk(4)
  const jobs = {
    a: Array.from({ length: 4 }, () => job('a')),
    b: Array.from({ length: 2 }, () => job('b', { priority: 'preheat' })),
    c: Array.from({ length: 2 }, () => job('c')),
  }
  const blocker = [job('x'), job('x'), job('y'), job('y')]
  for (const one of [...blocker, ...jobs.a, ...jobs.b, ...jobs.c]) uploads.submit(one)
  await until(() => blocker.every(({ state }) => state === 'loaded'))
  assert.equal(uploads.queued, 8)
  for (const one of blocker) uploads.finish(one)
  await until(() => uploads.loaded === 4 && jobs.c[1]!.state === 'loaded')
  const states = Object.values(jobs).map((list) => list.filter(({ state }) => state === 'loaded').length)
  assert.deepEqual(states, [2, 0, 2])
  for (const one of jobs.c) uploads.finish(one)
  await until(() => jobs.b[1]!.state === 'loaded')
  assert.equal(uploads.loadedBytes, 4 * 512 * KIB)
  for (const one of [...jobs.a, ...jobs.b]) uploads.finish(one)
  assert.equal(uploads.queued, 0)
  await until(() => uploads.loadedBytes === 0)
})

test('buffers of the pool are used again, and not while something may still write to them', async () => {
  const given: Buffer[] = []
  const gates: (() => void)[] = []
  const uploads = desk(1, {
    pooled: 512 * KIB,
    async provide(_cid, _signal, into) {
      given.push(into!)
      await new Promise<void>((resolve) => gates.push(resolve))
      return into!
    },
  })
  const [one, two, three] = [job('a'), job('a'), job('a')] as [Job, Job, Job]
  for (const each of [one, two, three]) uploads.submit(each)
  uploads.finish(one)
  assert.equal(given.length, 1, 'the cancelled one still holds its buffer')
  gates[0]!()
  await until(() => given.length === 2)
  gates[1]!()
  await until(() => two.state === 'loaded')
  uploads.finish(two)
  await until(() => given.length === 3)
  assert.equal(new Set(given).size, 1)
  gates[2]!()
  await until(() => three.state === 'loaded')
  uploads.finish(three)
  assert.equal(uploads.loaded, 0)
})

test('a block that cannot be had is told as missing, a broken disk as failed', async () => {
  const failures: string[] = []
  const heard = lane({ onFailed: (_job, reason) => failures.push(reason) })
  const errors = [
    new ShoalError('BLOCK_MISSING', ''),
    new ShoalError('BLOCK_CORRUPT', ''),
    new Error('EIO'),
    undefined,
  ]
  const uploads = desk(8, {
    async provide() {
      const error = errors.shift()
      if (error) throw error
      return Buffer.alloc(1)
    },
  })
  for (let i = 0; i < 4; i++) {
    uploads.submit(job('a', { lane: heard }))
    await until(() => failures.length === i + 1)
  }
  assert.deepEqual(failures, ['missing', 'missing', 'failed', 'missing'])
  assert.equal(uploads.loaded, 0)
})

test('the place of a stuck reader goes to who waits, and it gets one again when it moves', async () => {
  let stuck = 0
  const slow = lane({ stuckMs: () => stuck })
  const uploads = desk(1)
  const first = job('slow', { lane: slow })
  const second = job('slow', { lane: slow })
  const other = job('quick')
  for (const each of [first, second, other]) uploads.submit(each)
  await until(() => first.state === 'loaded')
  stuck = 5000
  await until(() => other.state === 'loaded')
  assert.deepEqual([first.state, first.block, second.state], ['parked', undefined, 'queued'])
  uploads.finish(other)
  stuck = 0
  uploads.unpark(first)
  await until(() => first.state === 'loaded')
  uploads.finish(first)
  await until(() => second.state === 'loaded')
  uploads.finish(second)
  assert.equal(uploads.loaded, 0)
})

test('the bucket grants at the rate, clients first, and overdraws for large ones', () => {
  mock.timers.enable({ apis: ['setTimeout'] })
  let now = 0
  const order: string[] = []
  const bucket = createBucket({ rate: 100_000, now: () => now })
  const pass = (ms: number): void => {
    for (let i = 0; i < ms; i++) {
      now++
      mock.timers.tick(1)
    }
  }
  pass(1000)
  assert.equal(
    bucket.take(50_000, 'client', () => {}),
    true,
    'the burst may be overdrawn',
  )
  assert.equal(
    bucket.take(1000, 'preheat', () => order.push('preheat')),
    false,
  )
  assert.equal(
    bucket.take(1000, 'client', () => order.push('client')),
    false,
  )
  const gone = (): void => void order.push('gone')
  bucket.take(1000, 'client', gone)
  bucket.withdraw(gone)
  pass(100)
  assert.deepEqual(order, [])
  pass(400)
  assert.deepEqual(order, ['client', 'preheat'])
  let granted = 0
  for (let i = 0; i < 100; i++) if (bucket.take(10_000, 'client', () => void granted++)) granted++
  const start = granted
  pass(5000)
  assert.ok(granted - start >= 48 && granted - start <= 52, `${granted - start} of 10 kB in 5 s`)
  bucket.setRate(undefined)
  assert.equal(granted, 100)
  assert.equal(
    bucket.take(1e9, 'preheat', () => {}),
    true,
  )
  bucket.close()
  mock.timers.reset()
})

test('the gate lets in so many a key, clients first, and forgets who gave up', () => {
  const gate = createGate(1)
  const order: string[] = []
  const go = (name: string) => () => void order.push(name)
  const [a, b, c, d] = [go('a'), go('b'), go('c'), go('d')]
  gate.enter('x', 'preheat', a)
  gate.enter('x', 'preheat', b)
  gate.enter('x', 'client', c)
  gate.enter('x', 'client', d)
  gate.enter('y', 'preheat', go('other'))
  gate.leave('x', d)
  gate.leave('x', a)
  gate.leave('x', c)
  gate.leave('x', b)
  assert.deepEqual(order, ['a', 'other', 'c', 'b'])
})
