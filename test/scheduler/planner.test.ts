import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPeerBook, createPlanner, DEFAULT_LIMITS, fullBitfield } from '../../scheduler/index.ts'
import { BLOCK, fieldOf, MIB, seeded, span } from './helpers.ts'
import { acquaint, asks, setup } from './planner-tools.ts'

const limits = DEFAULT_LIMITS.planner

test('asks a holder for what is missing and known, within its room, and nothing else', () => {
  const { planner, book } = setup({ blocks: 4 })
  planner.peer('a', fieldOf(4, [0, 1, 2]))
  planner.got(1)
  planner.forgetCut(2)
  acquaint(book, 'a', 5)
  const first = asks(planner.next(0))
  assert.deepEqual(
    first.map(({ index, peer, bytes, hedge }) => ({ index, peer, bytes, hedge })),
    [{ index: 0, peer: 'a', bytes: BLOCK, hedge: false }],
  )
  assert.deepEqual(planner.next(0), [])
  planner.known(2)
  assert.deepEqual(
    asks(planner.next(0)).map(({ index }) => index),
    [2],
  )
})

test('the last block is asked for with its own length', () => {
  const { planner } = setup()
  planner.size(3 * BLOCK - 1000)
  planner.peer('a', fieldOf(3, [2]))
  assert.equal(asks(planner.next(0))[0]?.bytes, BLOCK - 1000)
})

test('works before the size is known', () => {
  const book = createPeerBook({ limits: { minBudget: BLOCK } })
  const planner = createPlanner({ blockSize: BLOCK, book, priority: () => 'client', random: seeded(1) })
  planner.peer('a', fieldOf(4, [3]))
  planner.known(3)
  planner.known(70_000)
  planner.peerHas('a', 70_000)
  assert.equal(asks(planner.next(0)).length, 1)
  planner.size(4 * BLOCK)
  planner.arrived(3, 'a', 5)
  planner.arrived(70_000, 'a', 5)
  assert.deepEqual(asks(planner.next(10)), [], 'what is past the end is not asked for')
})

test('readers come first, then what few have', () => {
  const { planner, book } = setup({ blocks: 64 })
  acquaint(book, 'a', 4)
  planner.peer('a', fullBitfield(64))
  for (const id of ['x', 'y', 'z']) {
    planner.peer(id, fieldOf(64, span(0, 60)))
    book.asked(id, BLOCK, 0)
  }
  planner.reader(1, 20)
  const order: number[] = []
  for (let now = 0; order.length < limits.ahead + 4 && now < 1000; now += 5) {
    for (const { index, peer } of asks(planner.next(now))) {
      order.push(index)
      planner.arrived(index, peer, now + 4)
    }
  }
  assert.deepEqual(order.slice(0, limits.ahead), span(20, 20 + limits.ahead))
  assert.deepEqual(
    order.slice(limits.ahead).sort((a, b) => a - b),
    span(60, 64),
  )
})

test('equally rare blocks are taken in an order that differs between nodes', () => {
  const orders = span(0, 8).map((seed) => {
    const { planner } = setup({ blocks: 256, seed })
    planner.peer('a', fullBitfield(256))
    return asks(planner.next(0))[0]!.index
  })
  assert.ok(new Set(orders).size >= 6, orders.join())
})

test('of two holders the one that brings the block sooner is asked', () => {
  const { planner, book } = setup({ blocks: 1 })
  acquaint(book, 'slow', 200)
  acquaint(book, 'fast', 5)
  planner.peer('slow', fullBitfield(1))
  planner.peer('fast', fullBitfield(1))
  assert.equal(asks(planner.next(100_000))[0]?.peer, 'fast')
})

test('a shunned peer is asked for nothing until its time is over, and wakeAt says when that is', () => {
  const { planner, book } = setup()
  planner.peer('a', fullBitfield(16))
  const [first] = asks(planner.next(0))
  planner.failed(first!.index, 'a', 'gone', 0)
  assert.deepEqual(asks(planner.next(1)), [])
  const at = planner.wakeAt(1)!
  assert.ok(at > 1 && at <= book.describe('a').shunnedUntil + 50)
  let now = at
  while (asks(planner.next(now)).length === 0) {
    const next = planner.wakeAt(now)
    assert.ok(next !== undefined && next > now && next < 1000, `${next}`)
    now = next
  }
  assert.ok(now >= book.describe('a').shunnedUntil)
})

test('a block that the peer has not after all is asked of another', () => {
  const { planner } = setup({ blocks: 1 })
  planner.peer('a', fullBitfield(1))
  planner.peer('b', fullBitfield(1))
  const [first] = asks(planner.next(0))
  planner.failed(0, first!.peer, 'missing', 1)
  const [second] = asks(planner.next(1))
  assert.notEqual(second!.peer, first!.peer)
  planner.failed(0, second!.peer, 'missing', 2)
  assert.deepEqual(asks(planner.next(500)), [])
})

test('an older snapshot does not take back what the peer said itself', () => {
  const { planner } = setup({ blocks: 8 })
  planner.peerHas('a', 5)
  planner.peer('a', fieldOf(8, [1]))
  planner.peer('a', fieldOf(8, [2]))
  const asked = new Set<number>()
  for (let now = 0; now < 50; now += 10) {
    for (const { index, peer } of asks(planner.next(now))) {
      asked.add(index)
      planner.arrived(index, peer, now + 5)
    }
  }
  assert.deepEqual([...asked].sort(), [2, 5])
})

test('a block that comes from upstream while it is in flight is cancelled, but not before the peer could report it', () => {
  const { planner, book } = setup()
  planner.peer('a', fieldOf(16, [3]))
  planner.next(0)
  planner.got(3)
  assert.deepEqual(planner.arrived(3, 'a', 8), [])
  assert.ok(book.describe('a').rate > 0, 'it was the answer to the ask')
  planner.peerHas('a', 4)
  planner.next(10)
  planner.got(4)
  assert.deepEqual(planner.next(11), [{ type: 'cancel', index: 4, peer: 'a' }])
  assert.equal(book.inFlight, 0)
})

test('dropping a peer cancels what it was asked for and asks others', () => {
  const { planner, book } = setup()
  planner.peer('a', fieldOf(16, [3]))
  planner.next(0)
  planner.dropPeer('a')
  planner.peer('b', fieldOf(16, [3]))
  assert.deepEqual(planner.next(1), [
    { type: 'cancel', index: 3, peer: 'a' },
    { type: 'ask', index: 3, peer: 'b', bytes: BLOCK, hedge: false },
  ])
  planner.failed(3, 'a', 'gone', 2)
  assert.equal(book.inFlight, BLOCK)
})

test('a cut that proved wrong: its block is cancelled and not asked for again until it is known anew', () => {
  const { planner } = setup()
  planner.peer('a', fieldOf(16, [3]))
  planner.next(0)
  planner.forgetCut(3)
  assert.deepEqual(planner.next(1), [{ type: 'cancel', index: 3, peer: 'a' }])
  planner.known(3)
  assert.equal(asks(planner.next(2)).length, 1)
})

test('a lost block is fetched again', () => {
  const { planner } = setup({ blocks: 1 })
  planner.peer('a', fullBitfield(1))
  planner.got(0)
  assert.deepEqual(planner.next(0), [])
  planner.lost(0)
  assert.equal(asks(planner.next(1)).length, 1)
})

test('what this node seeds is not asked of peers, unless the lease brings nothing for long', () => {
  const { planner } = setup()
  planner.seeding([{ start: 0, count: Number.POSITIVE_INFINITY }])
  planner.peer('a', fullBitfield(16))
  assert.deepEqual(planner.next(0), [])
  planner.got(0)
  assert.deepEqual(planner.next(900), [])
  assert.equal(planner.wakeAt(900), 900 + limits.seedLateMs)
  assert.ok(asks(planner.next(900 + limits.seedLateMs)).length > 0)
  planner.got(1)
  const after = planner.next(2500)
  assert.deepEqual(asks(after), [], 'it moves again')
  planner.seeding([])
  assert.ok(asks(planner.next(2600)).length >= 0)
})

test('ranges that end are free again, those known later are seeded too', () => {
  const book = createPeerBook()
  const planner = createPlanner({ blockSize: BLOCK, book, priority: () => 'client', random: seeded(1) })
  planner.seeding([{ start: 0, count: 4 }])
  planner.peer('a', fullBitfield(8))
  for (const index of span(0, 8)) planner.known(index)
  planner.size(8 * BLOCK)
  const first = asks(planner.next(0)).map(({ index }) => index)
  assert.ok(first.length > 0 && first.every((index) => index >= 4))
  for (const index of span(4, 8)) planner.got(index)
  planner.next(1)
  planner.seeding([{ start: 0, count: 2 }])
  const second = asks(planner.next(2)).map(({ index }) => index)
  assert.ok(second.length > 0 && second.every((index) => index === 2 || index === 3))
})

test('a window limits choices to what readers need next', () => {
  const { planner, book } = setup({ blocks: 64 })
  acquaint(book, 'a', 4)
  planner.peer('a', fullBitfield(64))
  planner.window(3)
  assert.deepEqual(asks(planner.next(0)), [])
  planner.reader(1, 10)
  const chosen: number[] = []
  for (let now = 0; now < 100; now += 5) {
    for (const { index, peer } of asks(planner.next(now))) {
      chosen.push(index)
      planner.arrived(index, peer, now + 4)
    }
  }
  assert.deepEqual(chosen, [10, 11, 12])
  planner.window(undefined)
  assert.ok(asks(planner.next(200)).length > 0)
})

test('preheating takes what room it is given; blocks larger than that still move', () => {
  const book = createPeerBook()
  book.room('someone', 'client', 0)
  const { planner } = setup({ book, priority: 'preheat', blocks: 64 })
  for (const id of span(0, 64)) planner.peer(`p${id}`, fullBitfield(64))
  const asked = asks(planner.next(0)).reduce((sum, { bytes }) => sum + bytes, 0)
  assert.ok(asked > 0 && asked <= DEFAULT_LIMITS.peers.total / 2)
})

test('where other tasks hold all the room, it looks again soon', () => {
  const book = createPeerBook({ limits: { total: 2 * MIB } })
  for (const i of span(0, 4)) book.asked(`other${i}`, BLOCK, 0)
  const { planner } = setup({ book })
  planner.peer('a', fullBitfield(16))
  assert.deepEqual(planner.next(0), [])
  const at = planner.wakeAt(0)
  assert.ok(at !== undefined && at <= 100)
  book.released('other0', BLOCK)
  assert.equal(asks(planner.next(at)).length, 1)
})

test('nothing to do: no wake-up', () => {
  const { planner } = setup({ blocks: 1 })
  assert.equal(planner.wakeAt(0), undefined)
  planner.got(0)
  planner.peer('a', fullBitfield(1))
  assert.deepEqual(planner.next(0), [])
  assert.equal(planner.wakeAt(0), undefined)
})
