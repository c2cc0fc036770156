import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Action,
  createPeerBook,
  createPlanner,
  DEFAULT_LIMITS,
  type FetchFailure,
  type PeerBook,
} from '../../scheduler/index.ts'
import { BLOCK, fieldOf, seeded, span } from './helpers.ts'

interface PeerModel {
  id: string
  have: Set<number>
  /** ms a block; Infinity: never answers. */
  ms: number
  fails: FetchFailure | undefined
}

interface Outcome {
  done: boolean
  now: number
  asks: number
  arrived: number
  log: string
}

/** Runs one task against modelled peers, and checks every action against what the planner was told. */
function pull(
  blocks: number,
  peers: PeerModel[],
  seed: number,
  options: { until?: number; check?: (action: Action, book: PeerBook, now: number) => void } = {},
): Outcome {
  const book = createPeerBook()
  const planner = createPlanner({ blockSize: BLOCK, book, priority: () => 'client', random: seeded(seed) })
  const here = new Set<number>()
  const flights = new Map<string, { index: number; peer: PeerModel; at: number; bytes: number }>()
  const denied = new Set<string>()
  const byId = new Map(peers.map((peer) => [peer.id, peer]))
  const log: string[] = []
  let now = 0
  let asked = 0
  let arrived = 0
  planner.size(blocks * BLOCK)
  for (const index of span(0, blocks)) planner.known(index)
  for (const { id, have } of peers) planner.peer(id, fieldOf(blocks, have))
  planner.reader(1, 0)

  const perform = (actions: Action[]): void => {
    for (const action of actions) {
      log.push(`${now.toFixed(2)} ${action.type} ${action.index} ${action.peer}`)
      options.check?.(action, book, now)
      const key = `${action.index} ${action.peer}`
      if (action.type === 'cancel') {
        assert.ok(flights.delete(key), `cancels what is not in flight: ${key}`)
        continue
      }
      const peer = byId.get(action.peer)!
      assert.ok(!here.has(action.index), `asks for block ${action.index}, which is here`)
      assert.ok(!flights.has(key), `asks twice: ${key}`)
      assert.ok(peer.have.has(action.index) && !denied.has(key), `${key}: the peer has it not`)
      const copies = [...flights.values()].filter(({ index }) => index === action.index).length
      assert.ok(copies < DEFAULT_LIMITS.planner.copies, `${copies + 1} copies of block ${action.index}`)
      assert.equal(action.hedge, copies > 0)
      asked++
      flights.set(key, { index: action.index, peer, at: now + peer.ms, bytes: action.bytes })
    }
  }

  const until = options.until ?? 600_000
  while (here.size < blocks && now < until) {
    perform(planner.next(now))
    assert.deepEqual(asksOf(planner.next(now)), [], 'a second look at once finds nothing new')
    const wake = planner.wakeAt(now) ?? Number.POSITIVE_INFINITY
    assert.ok(wake > now)
    const [key, next] = [...flights].reduce<[string, { at: number }]>(
      (best, entry) => (entry[1].at < best[1].at ? entry : best),
      ['', { at: Number.POSITIVE_INFINITY }],
    )
    if (wake < next.at) {
      now = wake
      continue
    }
    if (next.at === Number.POSITIVE_INFINITY) break
    now = Math.max(now, next.at)
    const flight = flights.get(key)!
    flights.delete(key)
    const { index, peer } = flight
    if (peer.fails !== undefined) {
      if (peer.fails === 'missing' || peer.fails === 'corrupt') denied.add(key)
      planner.failed(index, peer.id, peer.fails, now)
    } else {
      arrived++
      const cancels = planner.arrived(index, peer.id, now)
      here.add(index)
      assert.ok(cancels.every((action) => action.type === 'cancel'))
      perform(cancels)
      let next = 0
      while (here.has(next)) next++
      planner.reader(1, next < blocks ? next : undefined)
    }
  }
  if (here.size === blocks) {
    perform(planner.next(now))
    assert.equal(flights.size, 0)
    assert.equal(book.inFlight, 0)
    assert.equal(planner.wakeAt(now), undefined)
  }
  return { done: here.size === blocks, now, asks: asked, arrived, log: log.join('\n') }
}

function asksOf(actions: Action[]): Action[] {
  return actions.filter((action) => action.type === 'ask')
}

const peerModel = (blocks: number): fc.Arbitrary<Omit<PeerModel, 'id'>> =>
  fc.record({
    have: fc.uniqueArray(fc.nat({ max: blocks - 1 })).map((indexes) => new Set(indexes)),
    ms: fc.oneof(fc.double({ min: 1, max: 200, noNaN: true }), fc.constant(3000), fc.constant(Infinity)),
    fails: fc.option(fc.constantFrom<FetchFailure[]>('missing', 'corrupt', 'timeout', 'gone'), {
      nil: undefined,
    }),
  })

const swarm = fc.integer({ min: 1, max: 60 }).chain((blocks) =>
  fc.record({
    blocks: fc.constant(blocks),
    peers: fc.array(peerModel(blocks), { maxLength: 6 }),
    honest: fc.double({ min: 1, max: 100, noNaN: true }),
    seed: fc.nat(),
  }),
)

test('with one honest holder everything comes, whatever the others do', () => {
  fc.assert(
    fc.property(swarm, ({ blocks, peers, honest, seed }) => {
      const models = peers.map((peer, i) => ({ ...peer, id: `p${i}` }))
      models.push({ id: 'honest', have: new Set(span(0, blocks)), ms: honest, fails: undefined })
      const { done, now } = pull(blocks, models, seed)
      assert.ok(done, `not done at ${now}`)
    }),
    { numRuns: 200 },
  )
})

test('no peer is asked beyond its budget or while it is shunned', () => {
  fc.assert(
    fc.property(swarm, ({ blocks, peers, seed }) => {
      const models = peers.map((peer, i) => ({ ...peer, id: `p${i}` }))
      const check = (action: Action, book: PeerBook, now: number): void => {
        if (action.type !== 'ask') return
        assert.equal(book.shunned(action.peer, now), false, `${action.peer} is shunned at ${now}`)
        const { inFlight, rate, latencyMs } = book.describe(action.peer)
        const { minBudget, maxBudget, total } = DEFAULT_LIMITS.peers
        assert.ok(inFlight <= Math.min(maxBudget, Math.max(minBudget, (2.1 * rate * latencyMs) / 1000 + 1)))
        assert.ok(book.inFlight <= total)
      }
      pull(blocks, models, seed, { until: 20_000, check })
    }),
    { numRuns: 200 },
  )
})

test('the same seed gives the same actions', () => {
  fc.assert(
    fc.property(swarm, ({ blocks, peers, seed }) => {
      const run = (): string => {
        const models = peers.map((peer, i) => ({ ...peer, id: `p${i}` }))
        return pull(blocks, models, seed, { until: 20_000 }).log
      }
      assert.equal(run(), run())
    }),
    { numRuns: 50 },
  )
})

test('peers that work cost next to no duplicates', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 50, max: 400 }),
      fc.array(fc.double({ min: 1, max: 40, noNaN: true }), { minLength: 1, maxLength: 8 }),
      fc.nat(),
      (blocks, speeds, seed) => {
        const models = speeds.map((ms, i) => ({
          id: `p${i}`,
          have: new Set(span(0, blocks)),
          ms,
          fails: undefined,
        }))
        const { done, asks } = pull(blocks, models, seed)
        assert.ok(done)
        assert.ok(asks <= blocks * 1.02 + 3, `${asks} asks for ${blocks} blocks`)
      },
    ),
    { numRuns: 60 },
  )
})

test('peers that stall are hedged within bounds', () => {
  fc.assert(
    fc.property(fc.integer({ min: 100, max: 300 }), fc.nat(), (blocks, seed) => {
      const all = new Set(span(0, blocks))
      const models = [
        { id: 'dead', have: all, ms: Number.POSITIVE_INFINITY, fails: undefined },
        { id: 'fine', have: all, ms: 10, fails: undefined },
      ]
      const { done, now, asks } = pull(blocks, models, seed)
      assert.ok(done)
      assert.ok(now < blocks * 10 + 2000, `${now} ms`)
      assert.ok(asks <= blocks * 1.02 + 8, `${asks} asks for ${blocks} blocks`)
    }),
    { numRuns: 40 },
  )
})
