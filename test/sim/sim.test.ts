import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createClock, seeded } from './clock.ts'
import { createFair, createFifo, job } from './links.ts'
import { simulate } from './swarm.ts'
import { DEFAULTS, lowerBoundMs, type Outcome, type Scenario } from './types.ts'

const MIB = 2 ** 20

/** Runs the scenario, checks that everybody is done, and gives the last node's time against the lower bound. */
function run(scenario: Partial<Scenario>): Outcome & { ratio: number; uplinkRatio: number } {
  const full = { ...DEFAULTS, ...scenario }
  const outcome = simulate(full)
  assert.equal(outcome.unfinished, 0, 'somebody is not done')
  return {
    ...outcome,
    ratio: outcome.doneMs.at(-1)! / lowerBoundMs(full),
    uplinkRatio: outcome.uplinkBytes / full.size,
  }
}

test('events happen in the order of their times, and of their setting where these are equal', () => {
  const clock = createClock()
  const random = seeded(1)
  const seen: number[] = []
  const times = Array.from({ length: 3000 }, () => Math.floor(random() * 500))
  times.forEach((time, i) => {
    clock.at(time, () => seen.push(time * 1e6 + i))
  })
  clock.run(() => false, 1e9)
  assert.equal(seen.length, 3000)
  assert.deepEqual(
    seen,
    [...seen].sort((a, b) => a - b),
  )
})

test('a link sends at its rate, in turn or sharing', () => {
  for (const [create, expected] of [
    [createFifo, [100, 200, 250]],
    [createFair, [250, 250, 150]],
  ] as const) {
    const clock = createClock()
    const link = create(clock, 10)
    const done: number[] = []
    ;[1000, 1000, 500].forEach((bytes, i) => {
      link.send(job(bytes, () => (done[i] = clock.now)))
    })
    clock.run(() => false, 1e9)
    assert.deepEqual(
      done.map((time) => Math.round(time)),
      expected,
    )
    assert.equal(Math.round(link.sent), 2500)
  }
})

test('twenty nodes pull 64 MiB over a shared uplink: once, and soon', () => {
  const { ratio, uplinkRatio, wastedBytes, lanBytes } = run({ nodes: 20, size: 64 * MIB, uplink: 12.5e6 })
  assert.ok(ratio < 1.1, `${ratio}`)
  assert.equal(uplinkRatio, 1)
  assert.ok(wastedBytes <= 0.02 * lanBytes)
})

test('the same seed gives the same outcome', () => {
  const scenario = { nodes: 12, size: 24 * MIB, uplink: 25e6, seed: 7 }
  assert.deepEqual(run(scenario), run(scenario))
})

test('eight nodes behind 100 Mbit/s need no longer than one', () => {
  assert.ok(run({ nodes: 8, size: 128 * MIB, uplink: 12.5e6 }).ratio < 1.1)
})

test('four uplinks of 50 Mbit/s add up: at most 0.35 of the time that one takes', () => {
  const scenario: Partial<Scenario> = { size: 128 * MIB, uplink: 6.25e6, uplinks: 'each' }
  const alone = run({ ...scenario, nodes: 1 }).doneMs.at(-1)!
  const { doneMs, uplinkRatio } = run({ ...scenario, nodes: 4 })
  assert.ok(doneMs.at(-1)! <= 0.35 * alone, `${doneMs.at(-1)! / alone}`)
  assert.ok(uplinkRatio <= 1.01)
})

test('a lone node is not slowed down', () => {
  assert.ok(run({ nodes: 1, size: 256 * MIB, uplink: 125e6 }).ratio < 1.1)
})

for (const [what, failures] of Object.entries({
  'the coordinator': [{ who: 'coordinator', count: 1, atMs: 2000 }],
  'a seeder': [{ who: 'seeder', count: 1, atMs: 1500 }],
  'three of ten nodes, the coordinator among them': [
    { who: 'coordinator', count: 1, atMs: 1000 },
    { who: 'random', count: 2, atMs: 2500 },
  ],
} satisfies Record<string, Scenario['failures']>)) {
  test(`${what} may die`, () => {
    const { uplinkRatio, ratio } = run({ nodes: 10, size: 64 * MIB, uplink: 12.5e6, failures })
    assert.ok(uplinkRatio < 1.15, `${uplinkRatio}`)
    assert.ok(ratio < 1.6, `${ratio}`)
  })
}
