import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_LIMITS } from '../../scheduler/index.ts'
import { BLOCK, ledgerOf, MIB, rangeOf, span, TestNode } from './helpers.ts'

const GIB = 1024 * MIB

test('the first lease starts at 0 and is 4 MiB while the size is unknown; others wait', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a')
  const b = new TestNode(ledger, 'b')
  assert.deepEqual(rangeOf(a.dispatch(0).leases[0]), [0, 8])
  const waiting = b.dispatch(1)
  assert.deepEqual(waiting.leases, [])
  assert.equal(waiting.seeding, true)
  assert.equal(waiting.refusal, undefined)
  a.size = 128 * MIB
  a.dispatch(30)
  assert.equal(b.dispatch(60).size, 128 * MIB)
  assert.equal(b.last?.leases[0]?.start, 8)
})

test('leases do not overlap, go up from the lowest offset, and end with the blob', () => {
  const ledger = ledgerOf()
  const nodes = span(0, 4).map(
    (i) => new TestNode(ledger, `n${i}`, { size: 40 * MIB - 1, seed: { rate: 6e6 } }),
  )
  let next = 0
  for (const node of nodes) {
    const [start, count] = rangeOf(node.dispatch(0).leases[0])
    assert.equal(start, next)
    next = start + count
  }
  const seeded = new Set<number>()
  for (let round = 1; round < 200; round++) {
    for (const node of nodes) {
      for (const lease of node.last?.leases ?? []) {
        for (const index of span(lease.start, lease.start + lease.count)) {
          if (node.have.has(index)) continue
          assert.ok(!seeded.has(index), `block ${index} was leased twice`)
          assert.ok(index < 80)
          seeded.add(index)
          node.seeds([index])
          break
        }
      }
      node.dispatch(round * 80)
    }
    for (const node of nodes) node.gets(seeded)
  }
  assert.equal(seeded.size, 80)
  for (const node of nodes) assert.deepEqual(node.dispatch(20_000).leases, [])
})

test('lease size follows the rate of the asker, within its share of what is left', () => {
  const size = (rate: number, others: number, bytes = GIB): number => {
    const ledger = ledgerOf()
    const helpers = span(0, others).map(
      (i) => new TestNode(ledger, `h${i}`, { size: bytes, seed: { rate: 1e6 } }),
    )
    for (const helper of helpers) helper.dispatch(0)
    const node = new TestNode(ledger, 'n', { size: bytes, seed: { rate } })
    return rangeOf(node.dispatch(1).leases[0])[1]
  }
  assert.equal(size(12.5e6, 1), Math.round((12.5e6 * 1.5) / BLOCK) > 32 ? 32 : 36)
  assert.equal(size(4e6, 1), Math.round((4e6 * 1.5) / BLOCK))
  assert.equal(size(1e5, 1), 2)
  // 64 MiB less the helper's lease, shared by two, half of it.
  assert.ok(size(1e9, 1, 64 * MIB) <= 128 / 4)
})

test('a lone node is given a second lease when half of the first is here, and ever larger ones', () => {
  const ledger = ledgerOf()
  const node = new TestNode(ledger, 'a', { size: GIB, seed: { rate: 0 } })
  const sizes: number[] = []
  node.dispatch(0)
  node.seed = { rate: 120e6 }
  for (let now = 4; node.have.size < 2048; now += 4) {
    const current = node.last!.leases.find((lease) =>
      span(lease.start, lease.start + lease.count).some((index) => !node.have.has(index)),
    )
    assert.ok(current, 'the stream pauses')
    if (!sizes.includes(current.count)) sizes.push(current.count)
    const done = span(current.start, current.start + current.count).filter((index) =>
      node.have.has(index),
    ).length
    assert.ok(node.last!.leases.length <= 2)
    if (done > current.count / 2 + 25 && node.have.size + current.count < 2048) {
      assert.equal(node.last!.leases.length, 2)
    }
    node.seeds([current.start + done])
    if (now % 100 === 0 || done + 1 === current.count || done * 2 === current.count) node.dispatch(now)
  }
  assert.deepEqual(sizes.slice(0, 3), [8, 32, 128])
  assert.ok(Math.max(...sizes) <= DEFAULT_LIMITS.ledger.maxLease / BLOCK)
})

test('a thousand nodes that ask at once share no more than a few leases', () => {
  const ledger = ledgerOf()
  const nodes = span(0, 1000).map((i) => new TestNode(ledger, `n${i}`, { size: GIB, seed: { rate: 0 } }))
  const lessees = nodes.filter((node) => node.dispatch(0).leases.length > 0)
  assert.equal(lessees.length, DEFAULT_LIMITS.ledger.lessees)
  for (const node of lessees) node.seed = { rate: 125e6 / 8 }
  for (let i = 0; i < 3; i++) for (const node of nodes) node.dispatch(50 + i)
  assert.ok(nodes.filter((node) => node.last!.leases.length > 0).length <= DEFAULT_LIMITS.ledger.maxLessees)
  for (const node of nodes) {
    assert.ok(node.last!.holders.length <= DEFAULT_LIMITS.ledger.holders)
    if (node.last!.leases.length === 0) assert.ok(node.last!.retryMs >= 1000, `${node.last!.retryMs}`)
    else assert.ok(node.last!.retryMs <= 200)
  }
})

test('on a slow uplink few nodes hold leases', () => {
  const ledger = ledgerOf({ lessees: 4 })
  const nodes = span(0, 30).map((i) => new TestNode(ledger, `n${i}`, { size: GIB, seed: { rate: 3e5 } }))
  for (let i = 0; i < 5; i++) for (const node of nodes) node.dispatch(i)
  assert.equal(nodes.filter((node) => node.last!.leases.length > 0).length, 4)
})

test('a node that would hold up all others at the end gets no lease', () => {
  const ledger = ledgerOf()
  const fast = new TestNode(ledger, 'fast', { size: 16 * MIB, seed: { rate: 100e6 } })
  const slow = new TestNode(ledger, 'slow', { size: 16 * MIB, seed: { rate: 1e4 } })
  fast.dispatch(0)
  assert.deepEqual(slow.dispatch(0).leases, [])
  assert.equal(slow.last?.refusal, undefined)
})

test('a lease without news lapses and goes to another node; late blocks are still welcome', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  a.dispatch(0)
  a.seeds([0, 1]).dispatch(100)
  b.dispatch(100)
  assert.deepEqual(b.last?.leases, [])
  a.dispatch(2000)
  b.dispatch(2000)
  assert.equal(a.last?.leases.length, 1)
  a.dispatch(2700)
  assert.deepEqual(a.last?.leases, [], 'it lapsed, and b can')
  assert.deepEqual(rangeOf(b.dispatch(2710).leases[0]), [2, 6])
  a.seeds([2, 3]).dispatch(2800)
  b.seeds([4, 5, 6, 7]).dispatch(2900)
  assert.equal(b.last?.seeding, false)
  assert.equal(a.dispatch(3000).cuts.length, 4)
})

test('a node that nobody can replace gets its lapsed lease again', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  const first = a.dispatch(0).leases[0]
  const again = a.dispatch(4000).leases[0]
  assert.deepEqual(rangeOf(again), rangeOf(first))
  assert.notEqual(again?.id, first?.id)
})

test('a node that falls silent loses its lease', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  a.dispatch(0)
  for (let now = 100; now <= 2500; now += 100) assert.deepEqual(b.dispatch(now).leases, [])
  assert.deepEqual(rangeOf(b.dispatch(2600).leases[0]), [0, 8])
})

test('eight leases that share a slow uplink do not lapse: a block may take long where blocks take long', () => {
  const ledger = ledgerOf()
  const nodes = span(0, 8).map((i) => new TestNode(ledger, `n${i}`, { size: GIB, seed: { rate: 156e3 } }))
  for (const node of nodes) node.dispatch(0)
  const leases = nodes.map((node) => node.last!.leases.map((lease) => lease.id).join())
  for (let now = 100; now < 3400; now += 100) for (const node of nodes) node.dispatch(now)
  for (const [i, node] of nodes.entries()) {
    assert.equal(node.last!.leases.map((lease) => lease.id).join(), leases[i])
  }
})

test('a slow uplink whose rate nobody knows gets there in the end', () => {
  const ledger = ledgerOf()
  // A block takes 6 s, more than a lease lives at first; what was begun is lost with the lease.
  const nodes = ['a', 'b'].map((id) => ({
    node: new TestNode(ledger, id, { size: 4 * BLOCK }),
    lease: '',
    since: 0,
  }))
  let now = 0
  for (; now < 300_000; now += 100) {
    for (const each of nodes) {
      const { node } = each
      const lease = node.last?.leases[0]
      const index = lease && span(lease.start, lease.start + lease.count).find((i) => !node.have.has(i))
      if (lease === undefined || index === undefined || lease.id !== each.lease) {
        each.lease = lease?.id ?? ''
        each.since = now
      } else if (now - each.since >= 6000) {
        node.seeds([index])
        each.since = now
      }
      node.dispatch(now)
    }
    if (new Set(nodes.flatMap(({ node }) => [...node.have])).size === 4) break
  }
  assert.ok(now < 120_000, `${now} ms`)
})

test('a lease that crawls goes to a faster node once nothing else is left', () => {
  const ledger = ledgerOf()
  const slow = new TestNode(ledger, 'slow', { size: 16 * MIB, seed: { rate: 0 } })
  slow.dispatch(0)
  const fast = new TestNode(ledger, 'fast', { size: 16 * MIB, seed: { rate: 50e6 } })
  let now = 0
  for (let block = 0; block < 8 && fast.have.size < 28; now += 100) {
    if (now > 0 && now % 5000 === 0) slow.seeds([block++])
    slow.dispatch(now)
    const answer = fast.dispatch(now)
    const next = answer.leases.flatMap((lease) => span(lease.start, lease.start + lease.count))
    fast.seeds(next.filter((index) => !fast.have.has(index)).slice(0, 4))
  }
  assert.ok(now < 25_000, `${now}`)
  const all = new Set([...slow.have, ...fast.have])
  for (const index of span(8, 32)) assert.ok(all.has(index))
})

test('the death of a node frees its leases at once, and its blocks no longer count', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  a.dispatch(0)
  a.seeds([0, 1]).dispatch(50)
  b.gets([0]).dispatch(60)
  ledger.forget('a')
  const answer = b.dispatch(70)
  assert.deepEqual(rangeOf(answer.leases[0]), [1, 7])
  assert.deepEqual(answer.holders, [])
})
