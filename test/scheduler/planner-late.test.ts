import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fullBitfield } from '../../scheduler/index.ts'
import { fieldOf, span } from './helpers.ts'
import { acquaint, asks, cancels, setup } from './planner-tools.ts'

test('a late block without news is asked of a second holder, and the loser is cancelled', () => {
  const { planner, book } = setup({ blocks: 40 })
  planner.peer('a', fieldOf(40, [7]))
  const [first] = asks(planner.next(0))
  assert.equal(first?.peer, 'a')
  planner.peer('b', fieldOf(40, [7]))
  acquaint(book, 'b', 5)
  const due = planner.wakeAt(0)!
  assert.ok(due >= 150 && due <= 400, `${due}`)
  assert.deepEqual(asks(planner.next(due - 1)), [])
  const [hedge] = asks(planner.next(due))
  assert.deepEqual([hedge?.index, hedge?.peer, hedge?.hedge], [7, 'b', true])
  assert.deepEqual(asks(planner.next(due + 1)), [])
  assert.deepEqual(planner.arrived(7, 'b', due + 6), [{ type: 'cancel', index: 7, peer: 'a' }])
  assert.equal(book.inFlight, 0)
  assert.deepEqual(planner.arrived(7, 'a', due + 7), [], 'a cancelled block may still come')
})

test('a block that moves is not late, unless it trickles for ever', () => {
  const { planner, book } = setup({ blocks: 40 })
  planner.peer('a', fieldOf(40, [7]))
  planner.next(0)
  planner.peer('b', fieldOf(40, [7]))
  acquaint(book, 'b', 5)
  let hedgedAt = 0
  for (let now = 50; now < 20_000 && hedgedAt === 0; now += 50) {
    planner.progress(7, 'a', now, now)
    if (asks(planner.next(now)).length > 0) hedgedAt = now
  }
  assert.ok(hedgedAt > 800 && hedgedAt < 3000, `${hedgedAt}`)
})

test('peers that trickle hold nothing up, however many there are', () => {
  const blocks = 32
  const { planner } = setup({ blocks })
  const trickling = span(0, 5).map((i) => `trickle${i}`)
  for (const peer of [...trickling, 'good']) planner.peer(peer, fullBitfield(blocks))
  const here = new Set<number>()
  const queue: { index: number; peer: string; at: number }[] = []
  let tricklings = 0
  let now = 0
  for (; here.size < blocks && now < 60_000; now += 10) {
    while (queue.length > 0 && queue[0]!.at <= now) {
      const { index, peer } = queue.shift()!
      here.add(index)
      planner.arrived(index, peer, now)
    }
    planner.reader(
      1,
      span(0, blocks).find((index) => !here.has(index)),
    )
    for (const peer of trickling) for (const index of span(0, blocks)) planner.progress(index, peer, 80, now)
    for (const { index, peer } of asks(planner.next(now))) {
      if (peer === 'good') queue.push({ index, peer, at: Math.max(now, queue.at(-1)?.at ?? 0) + 50 })
      else tricklings++
    }
  }
  assert.equal(here.size, blocks)
  assert.ok(now < 5000, `${now} ms`)
  assert.ok(tricklings <= 4 * trickling.length, `${tricklings} times`)
})

test('the block that a reader waits for is hedged sooner', () => {
  const due = [undefined, 7].map((next) => {
    const { planner } = setup({ blocks: 40 })
    planner.peer('a', fieldOf(40, [7]))
    planner.next(0)
    planner.reader(1, next)
    return planner.wakeAt(0)!
  })
  assert.ok(due[1]! < due[0]!, due.join())
})

test('a late block that nobody else has brings no busy loop', () => {
  const { planner } = setup({ blocks: 40 })
  planner.peer('a', fieldOf(40, [7]))
  planner.next(0)
  let now = 0
  let turns = 0
  while (now < 10_000) {
    const at = planner.wakeAt(now)
    if (at === undefined) break
    assert.ok(at > now)
    now = at
    turns++
    assert.deepEqual(planner.next(now), [])
  }
  assert.ok(turns < 100, `${turns} turns in 10 s`)
})

test('the last blocks are asked of a second holder when that is worth it', () => {
  const { planner, book } = setup({ blocks: 2 })
  acquaint(book, 'slow', 900)
  planner.peer('slow', fullBitfield(2))
  assert.equal(asks(planner.next(100_000)).length, 2)
  acquaint(book, 'fast', 5)
  planner.peer('fast', fullBitfield(2))
  const [hedge] = asks(planner.next(100_010))
  assert.ok(hedge?.hedge)
  assert.equal(hedge.peer, 'fast')
  assert.deepEqual(cancels(planner.arrived(hedge.index, 'fast', 100_015)).length, 1)
})
