import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { DEFAULT_LIMITS, type Ledger, type ReleaseReason } from '../../scheduler/index.ts'
import { BLOCK, ledgerOf, span, TestNode } from './helpers.ts'

interface World {
  ledger: Ledger
  nodes: TestNode[]
  /** Blocks that crossed the uplink more than once while the earlier lease was alive. */
  doubles: number
  crossings: number
  now: number
}

/** Every node works at its leases and dispatches; what is in the site spreads to all that pull. */
function turn(world: World, options: { ms: number; share: boolean; quick: boolean }): void {
  const { nodes } = world
  world.now += options.ms
  const live = new Map<number, string>()
  for (const node of nodes) {
    for (const lease of node.last?.leases ?? []) {
      for (const index of span(lease.start, Math.min(lease.start + lease.count, 64))) {
        if (live.has(index)) world.doubles++
        live.set(index, lease.id)
      }
    }
  }
  for (const node of nodes) {
    for (const lease of node.last?.leases ?? []) {
      const end = Math.min(lease.start + lease.count, 64)
      const index = span(lease.start, end).find((i) => !node.have.has(i))
      if (index === undefined) node.gives(lease.id, 'done')
      else if (options.quick) {
        node.seeds([index])
        world.crossings++
      }
    }
  }
  if (options.share) {
    const all = nodes.flatMap((node) => [...node.have])
    for (const node of nodes) if (node.pulling) node.gets(all)
  }
}

const step = fc.record({
  what: fc.constantFrom('turn', 'turn', 'turn', 'stall', 'kill', 'join', 'unreachable', 'idle', 'lose'),
  who: fc.nat({ max: 7 }),
  ms: fc.integer({ min: 20, max: 400 }),
})

test('whatever fails, leases do not overlap and everything finishes', () => {
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 60 }),
      fc.integer({ min: 1, max: 64 }),
      fc.boolean(),
      (steps, blocks, sized) => {
        const size = blocks * BLOCK - 7
        const ledger = ledgerOf({}, blocks)
        let serial = 0
        const join = (): TestNode =>
          new TestNode(ledger, `n${serial++}`, sized || serial === 1 ? { size } : {})
        const world: World = { ledger, nodes: [join(), join(), join()], doubles: 0, crossings: 0, now: 0 }
        const dispatchAll = (): void => {
          for (const node of world.nodes) {
            for (const index of node.have) assert.ok(index < blocks)
            node.dispatch(world.now)
          }
          const live = world.nodes.flatMap((node) => node.last!.leases)
          assert.ok(live.length <= 2 * DEFAULT_LIMITS.ledger.maxLessees)
          // What the last to dispatch did not see may have been taken from those before: compare with a fresh look.
          const again = world.nodes.map((node) => node.dispatch(world.now))
          const taken = new Set<number>()
          for (const { leases } of again) {
            for (const lease of leases) {
              for (const index of span(lease.start, lease.start + lease.count)) {
                assert.ok(!taken.has(index), `block ${index} is leased twice`)
                taken.add(index)
              }
            }
          }
        }
        const node = (who: number): TestNode => world.nodes[who % world.nodes.length]!
        dispatchAll()
        for (const { what, who, ms } of steps) {
          if (what === 'kill' && world.nodes.length > 1) {
            const [dead] = world.nodes.splice(who % world.nodes.length, 1)
            ledger.forget(dead!.id)
          } else if (what === 'join' && world.nodes.length < 8) world.nodes.push(join())
          else if (what === 'lose') {
            const loser = node(who)
            loser.have.delete(who)
          } else if (what === 'unreachable' || what === 'idle') {
            const reason: ReleaseReason = what
            for (const lease of node(who).last?.leases ?? []) node(who).gives(lease.id, reason)
          }
          if (what === 'stall') world.now += 10 * ms
          else turn(world, { ms, share: what === 'turn', quick: true })
          dispatchAll()
        }
        for (let i = 0; i < 3000 && world.nodes.some(({ have }) => have.size < blocks); i++) {
          turn(world, { ms: 100, share: true, quick: true })
          dispatchAll()
        }
        for (const { have, id } of world.nodes) assert.equal(have.size, blocks, `${id} at ${world.now} ms`)
        const last = world.nodes.map((each) => each.dispatch(world.now))
        for (const answer of last) {
          assert.deepEqual(answer.leases, [])
          assert.equal(answer.refusal, undefined)
          assert.equal(answer.seeding, false)
        }
      },
    ),
    { numRuns: 150 },
  )
})

test('without failures every block crosses the uplink once', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 64 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 20, max: 900 }),
      fc.nat({ max: 1e8 }),
      (blocks, count, ms, rate) => {
        const ledger = ledgerOf({}, count)
        const nodes = span(0, count).map(
          (i) => new TestNode(ledger, `n${i}`, { size: blocks * BLOCK, seed: { rate } }),
        )
        const world: World = { ledger, nodes, doubles: 0, crossings: 0, now: 0 }
        for (const node of nodes) node.dispatch(0)
        for (let i = 0; i < 400 && nodes.some((node) => node.have.size < blocks); i++) {
          turn(world, { ms, share: true, quick: true })
          for (const node of nodes) node.dispatch(world.now)
        }
        assert.equal(world.crossings, blocks)
        assert.equal(world.doubles, 0)
      },
    ),
    { numRuns: 100 },
  )
})

test('two ledgers that are told the same say the same', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(), (steps, seed) => {
      const [a, b] = [ledgerOf({ holders: 3 }, seed), ledgerOf({ holders: 3 }, seed)]
      const worlds = [a, b].map((ledger) =>
        span(0, 8).map((i) => new TestNode(ledger, `n${i}`, { size: 64 * BLOCK })),
      )
      let now = 0
      for (const { what, who, ms } of steps) {
        now += ms
        const said = worlds.map((nodes, at) => {
          const node = nodes[who]!
          if (what === 'kill') [a, b][at]!.forget(node.id)
          else if (what === 'lose') node.have.delete(who)
          else for (const lease of node.last?.leases ?? []) node.seeds([lease.start])
          return node.dispatch(now)
        })
        assert.deepEqual(said[0], said[1])
      }
    }),
    { numRuns: 100 },
  )
})

test('a coordinator that takes over ends up with the same holders, cuts and size', () => {
  fc.assert(
    fc.property(fc.array(fc.uniqueArray(fc.nat({ max: 31 })), { minLength: 1, maxLength: 6 }), (haves) => {
      const known = [...new Set(haves.flat())]
      const views = [1, 2].map((seed) => {
        const ledger = ledgerOf({}, seed)
        for (const [i, have] of haves.entries()) {
          const node = new TestNode(ledger, `n${i}`, { size: 32 * BLOCK })
          // A fresh coordinator hears of all cuts from everybody, in whatever order the nodes come.
          node.seeds(have)
          for (const cut of node.fresh) Object.assign(cut, { seeder: 'first' })
          node.dispatch(seed * i)
        }
        const asker = new TestNode(ledger, 'asker', { seed: undefined })
        const answer = asker.dispatch(10)
        return {
          size: answer.size,
          cuts: answer.cuts.map((cut) => cut.index).sort((x, y) => x - y),
          holders: answer.holders.map(({ peer, have }) => `${peer} ${have}`).sort(),
        }
      })
      assert.deepEqual(views[0], views[1])
      assert.deepEqual(
        views[0]!.cuts,
        known.sort((x, y) => x - y),
      )
    }),
    { numRuns: 60 },
  )
})

test('rubbish from peers neither throws nor makes answers or memory grow', () => {
  const garbage = fc.record({
    peer: fc.nat({ max: 40 }).map((n) => `p${n}`),
    version: fc.oneof(fc.nat(), fc.double({ noNaN: true, min: -1e9, max: 1e18 })),
    have: fc.uint8Array({ maxLength: 64 }),
    size: fc.option(fc.oneof(fc.integer({ min: -1000, max: 2 ** 31 }), fc.constant(2 ** 60)), {
      nil: undefined,
    }),
    cuts: fc.array(
      fc.record({
        index: fc.oneof(fc.nat({ max: 600 }), fc.integer(), fc.double({ noNaN: true })),
        cid: fc.constantFrom('x', 'y', 'z'),
        length: fc.oneof(fc.constant(BLOCK), fc.integer()),
        seeder: fc.constantFrom('p1', 'p2'),
        signature: fc.constant(new Uint8Array(1)),
      }),
      { maxLength: 10 },
    ),
    pulling: fc.boolean(),
    seeds: fc.option(fc.record({ rate: fc.double({ noNaN: true, min: -1e12, max: 1e12 }) }), {
      nil: undefined,
    }),
    released: fc.array(
      fc.record({
        id: fc.string({ maxLength: 4 }),
        reason: fc.constantFrom<ReleaseReason[]>(
          'done',
          'idle',
          'missing',
          'denied',
          'unreachable',
          'no-range',
        ),
      }),
      { maxLength: 2 },
    ),
    reject: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(garbage, { maxLength: 80 }), (requests) => {
      const ledger = ledgerOf({ holders: 5, cuts: 7 })
      let now = 0
      for (const { reject, size, seeds, ...rest } of requests) {
        now += 37
        const answer = ledger.dispatch(
          {
            ...rest,
            ...(size === undefined ? {} : { size }),
            ...(seeds === undefined ? {} : { seed: seeds }),
          },
          now,
        )
        assert.ok(answer.cuts.length <= 7)
        assert.ok(answer.holders.length <= 5)
        assert.ok(answer.leases.length <= 2)
        assert.ok(answer.retryMs >= 50)
        assert.ok(answer.holders.every(({ peer }) => peer !== rest.peer))
        const cut = rest.cuts[0]
        if (reject && cut) ledger.reject(cut.index, cut.cid, true)
        for (const lease of answer.leases) {
          assert.ok(lease.start >= 0 && lease.count >= 1 && lease.ttlMs > 0)
        }
      }
    }),
    { numRuns: 150 },
  )
})
