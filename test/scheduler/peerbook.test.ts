import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createPeerBook, DEFAULT_LIMITS, type FetchFailure, type PeerBook } from '../../scheduler/index.ts'
import { BLOCK, MIB } from './helpers.ts'

const limits = DEFAULT_LIMITS.peers

/** A peer that answers `latencyMs` after it was asked, one block after the other at `rate`, always kept as busy as allowed. */
function drive(
  book: PeerBook,
  peer: string,
  link: { rate: number; latencyMs: number },
  blocks: number,
): number {
  let now = 0
  let free = 0
  const queue: { startedAt: number; at: number }[] = []
  for (let done = 0; done < blocks; ) {
    while (book.room(peer, 'client', now) >= BLOCK) {
      book.asked(peer, BLOCK, now)
      free = Math.max(free, now) + (BLOCK / link.rate) * 1000
      queue.push({ startedAt: now, at: free + link.latencyMs })
    }
    const next = queue.shift()!
    now = next.at
    book.arrived(peer, BLOCK, next.startedAt, now)
    done++
  }
  return (blocks * BLOCK * 1000) / now
}

test('an unknown peer gets the least budget', () => {
  const book = createPeerBook()
  assert.equal(book.room('a', 'client', 0), limits.minBudget)
  book.asked('a', BLOCK, 0)
  assert.equal(book.room('a', 'client', 0), limits.minBudget - BLOCK)
  assert.equal(book.inFlight, BLOCK)
})

for (const link of [
  { rate: 125e6, latencyMs: 1 },
  { rate: 125e6, latencyMs: 30 },
  { rate: 12.5e6, latencyMs: 5 },
  { rate: 1e6, latencyMs: 100 },
]) {
  test(`the budget fills a link of ${link.rate / 1e6} MB/s with ${link.latencyMs} ms`, () => {
    const book = createPeerBook()
    const goodput = drive(book, 'a', link, 600)
    assert.ok(goodput > 0.9 * link.rate, `${goodput} of ${link.rate}`)
    const known = book.describe('a')
    assert.ok(Math.abs(known.rate / link.rate - 1) < 0.15, `measured ${known.rate}`)
    const product = link.rate * (link.latencyMs / 1000) + BLOCK
    assert.ok(known.inFlight <= Math.max(limits.minBudget, 2.6 * product), `${known.inFlight} in flight`)
  })
}

test('the budget of a peer and of all peers is bounded', () => {
  const book = createPeerBook()
  drive(book, 'far', { rate: 1e9, latencyMs: 300 }, 400)
  assert.ok(book.describe('far').inFlight <= limits.maxBudget)
  for (let i = 0; i < 200; i++) {
    while (book.room(`p${i}`, 'client', 0) >= BLOCK) book.asked(`p${i}`, BLOCK, 0)
  }
  assert.ok(book.inFlight <= limits.total)
  assert.ok(book.inFlight > limits.total - BLOCK)
})

test('preheating leaves half of the room while a client pulls', () => {
  const book = createPeerBook()
  const fill = (): void => {
    for (let i = 0; i < 100; i++) {
      while (book.room(`p${i}`, 'preheat', 10) >= BLOCK) book.asked(`p${i}`, BLOCK, 10)
    }
  }
  book.room('a', 'client', 0)
  fill()
  assert.ok(book.inFlight <= limits.total / 2, `${book.inFlight}`)
  assert.ok(book.inFlight > limits.total / 2 - BLOCK)
  assert.ok(book.room('z', 'client', 10) >= BLOCK)
})

test('preheating gets all where no client pulls', () => {
  const book = createPeerBook()
  book.room('a', 'client', 0)
  for (let i = 0; i < 100; i++) {
    while (book.room(`p${i}`, 'preheat', 60_000) >= BLOCK) book.asked(`p${i}`, BLOCK, 60_000)
  }
  assert.ok(book.inFlight > limits.total - BLOCK)
})

test('a corrupt block shuns the peer for ten minutes at once, and leaving does not help', () => {
  const book = createPeerBook()
  book.asked('a', BLOCK, 0)
  book.failed('a', BLOCK, 'corrupt', 5)
  assert.equal(book.shunned('a', 599_000), true)
  assert.equal(book.room('a', 'client', 599_000), 0)
  book.forget('a')
  assert.equal(book.shunned('a', 599_000), true)
  assert.equal(book.shunned('a', 600_006), false)
  assert.equal(book.inFlight, 0)
})

test('timeouts back off for longer and longer, a block that comes ends that', () => {
  const book = createPeerBook()
  let now = 0
  const waits: number[] = []
  for (let i = 0; i < 5; i++) {
    book.asked('a', BLOCK, now)
    book.failed('a', BLOCK, 'timeout', now)
    waits.push(book.describe('a').shunnedUntil - now)
    now = book.describe('a').shunnedUntil + 1
    assert.equal(book.shunned('a', now), false)
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000])
  for (let i = 0; i < 4; i++) {
    book.asked('a', BLOCK, now)
    book.arrived('a', BLOCK, now, now + 5)
  }
  book.asked('a', BLOCK, now)
  book.failed('a', BLOCK, 'gone', now)
  assert.equal(book.describe('a').shunnedUntil - now, 250)
})

test('several blocks that fail with one connection count once', () => {
  const book = createPeerBook()
  for (let i = 0; i < 4; i++) book.asked('a', BLOCK, 0)
  for (let i = 0; i < 4; i++) book.failed('a', BLOCK, 'gone', 10)
  assert.equal(book.describe('a').failures, 1)
  assert.equal(book.inFlight, 0)
})

test('a few blocks that are missing are forgiven, many are not', () => {
  const book = createPeerBook()
  const miss = (): void => {
    book.asked('a', BLOCK, 0)
    book.failed('a', BLOCK, 'missing', 0)
  }
  miss()
  miss()
  assert.equal(book.shunned('a', 1), false)
  miss()
  miss()
  assert.equal(book.shunned('a', 1), true)
})

test('expectMs grows with what is in flight and follows the measured rate', () => {
  const book = createPeerBook()
  drive(book, 'fast', { rate: 100e6, latencyMs: 1 }, 100)
  drive(book, 'slow', { rate: 1e6, latencyMs: 1 }, 100)
  assert.ok(book.expectMs('slow', BLOCK) > 10 * book.expectMs('fast', BLOCK))
  const before = book.expectMs('slow', BLOCK)
  book.asked('slow', BLOCK, 1e6)
  assert.ok(book.expectMs('slow', BLOCK) > before)
})

test('what came of a cancelled block tells how slow a peer is, but is forgotten when it is quick again', () => {
  const book = createPeerBook({ limits })
  const good = book.expectMs('a', BLOCK)
  book.asked('a', BLOCK, 0)
  book.released('a', BLOCK, { bytes: 10_000, startedAt: 0, now: 1000 })
  assert.ok(book.expectMs('a', BLOCK) > 20_000, `${book.expectMs('a', BLOCK)}`)
  book.asked('silent', BLOCK, 0)
  book.released('silent', BLOCK, { bytes: 0, startedAt: 0, now: 1000 })
  assert.ok(book.expectMs('silent', BLOCK) > book.expectMs('a', BLOCK))
  drive(book, 'a', { rate: 1e8, latencyMs: 1 }, 100)
  assert.ok(book.expectMs('a', BLOCK) < good)
})

test('forgetting a peer returns what it had in flight; remembering is bounded', () => {
  const book = createPeerBook({ limits: { peers: 100 } })
  book.asked('a', BLOCK, 0)
  book.forget('a')
  assert.equal(book.inFlight, 0)
  for (let i = 0; i < 5000; i++) {
    book.asked(`p${i}`, BLOCK, 0)
    book.released(`p${i}`, BLOCK)
  }
  assert.equal(book.describe('p0').inFlight, 0)
  assert.equal(book.inFlight, 0)
})

test('whatever happens, the books balance', () => {
  const reasons: FetchFailure[] = ['missing', 'corrupt', 'timeout', 'gone']
  const step = fc.record({
    peer: fc.nat({ max: 3 }).map((n) => `p${n}`),
    what: fc.constantFrom('ask', 'arrive', 'fail', 'release', 'forget'),
    bytes: fc.integer({ min: 1, max: MIB }),
    reason: fc.constantFrom(...reasons),
    ms: fc.nat({ max: 500 }),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const book = createPeerBook()
      const flights = new Map<string, { bytes: number; at: number }[]>()
      let now = 0
      for (const { peer, what, bytes, reason, ms } of steps) {
        now += ms
        const own = flights.get(peer) ?? []
        if (what === 'ask') {
          const room = book.room(peer, 'client', now)
          assert.ok(room >= 0 && Number.isFinite(room))
          if (room < bytes) continue
          assert.equal(book.shunned(peer, now), false)
          book.asked(peer, bytes, now)
          flights.set(peer, [...own, { bytes, at: now }])
        } else if (what === 'forget') {
          book.forget(peer)
          flights.delete(peer)
        } else {
          const flight = own.shift()
          if (flight === undefined) continue
          if (what === 'arrive') book.arrived(peer, flight.bytes, flight.at, now)
          else if (what === 'fail') book.failed(peer, flight.bytes, reason, now)
          else book.released(peer, flight.bytes, { bytes: ms % flight.bytes, startedAt: flight.at, now })
        }
        const all = [...flights.values()].flat().reduce((sum, flight) => sum + flight.bytes, 0)
        assert.equal(book.inFlight, all)
        assert.ok(book.inFlight <= limits.total)
        assert.ok(book.describe(peer).inFlight <= limits.maxBudget)
        const expected = book.expectMs(peer, BLOCK)
        assert.ok(expected > 0 && Number.isFinite(expected), `${expected}`)
      }
    }),
  )
})
