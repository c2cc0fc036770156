import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { compareStamps, createClock, MAX_COUNT } from '../../manager/records/clock.ts'
import { createClusterTime } from '../../manager/records/time.ts'

test('stamps follow the time, and rise within one millisecond', () => {
  let time = 1000.7
  const clock = createClock({ node: 'a', now: () => time })
  assert.deepEqual(clock.next(), { ms: 1000, count: 0, node: 'a' })
  assert.deepEqual(clock.next(), { ms: 1000, count: 1, node: 'a' })
  time = 1001
  assert.deepEqual(clock.next(), { ms: 1001, count: 0, node: 'a' })
})

test('whatever time does and others send, a stamp is above all that were given or seen', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('time' as const), to: fc.nat(5_000_000) }),
    fc.record({
      kind: fc.constant('see' as const),
      ms: fc.nat(5_000_000),
      count: fc.oneof(fc.nat(3), fc.constant(MAX_COUNT)),
      node: fc.constantFrom('a', 'b'),
    }),
    fc.record({ kind: fc.constant('next' as const) }),
  )
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      let time = 0
      const clock = createClock({ node: 'a', now: () => time })
      let highest = { ms: 0, count: 0, node: '' }
      for (const one of steps) {
        if (one.kind === 'time') time = one.to
        else if (one.kind === 'see') {
          const { kind: _, ...stamp } = one
          clock.see(stamp)
          if (compareStamps(stamp, highest) > 0) highest = stamp
        } else {
          const given = clock.next()
          assert.ok(compareStamps(given, highest) > 0)
          assert.ok(given.count <= MAX_COUNT)
          highest = given
        }
      }
    }),
  )
})

test('a time far ahead is not believed, and one a little ahead is', () => {
  const clock = createClock({ node: 'a', now: () => 1_000_000 })
  assert.equal(clock.credible({ ms: 1_000_000 + 10 * 60_000, count: 0, node: 'b' }), true)
  assert.equal(clock.credible({ ms: 1_000_001 + 10 * 60_000, count: 0, node: 'b' }), false)
  assert.equal(clock.credible({ ms: 0, count: 0, node: 'b' }), true)
})

test('the time is the median of the clocks that are known', () => {
  const time = createClusterTime(() => 1000)
  assert.equal(time.now(), 1000)
  time.heard('a', 5000)
  assert.equal(time.now(), 1000)
  time.heard('b', 6000)
  assert.equal(time.now(), 5000)
  time.heard('c', 0)
  assert.equal(time.now(), 1000)
  for (let i = 0; i < 100; i++) time.heard(`peer${i}`, 9000 + i)
  assert.ok(time.now() > 9000)
})
