import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_LIMITS } from '../../scheduler/index.ts'
import { cutOf, fieldOf, ledgerOf, MIB, rangeOf, span, TestNode } from './helpers.ts'

const GIB = 1024 * MIB

test('an asker is told every cut once, and not those of blocks that it has', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 64 * MIB })
  const b = new TestNode(ledger, 'b', { size: 64 * MIB })
  a.dispatch(0)
  a.seeds(span(0, 8)).dispatch(10)
  assert.equal(a.last?.cuts.length, 0)
  const seen = b
    .gets([3])
    .dispatch(20)
    .cuts.map((cut) => cut.index)
  assert.deepEqual(seen, [0, 1, 2, 4, 5, 6, 7])
  assert.deepEqual(b.dispatch(30).cuts, [])
  a.seeds([8]).dispatch(40)
  assert.deepEqual(
    b.dispatch(50).cuts.map((cut) => cut.index),
    [8],
  )
})

test('answers are bounded: many cuts come in several', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: GIB })
  a.seeds(span(0, 2048)).dispatch(0)
  const b = new TestNode(ledger, 'b', { size: GIB })
  const told: number[] = []
  for (let i = 0; i < 10; i++) {
    const { cuts } = b.dispatch(i)
    assert.ok(cuts.length <= DEFAULT_LIMITS.ledger.cuts)
    told.push(...cuts.map((cut) => cut.index))
  }
  assert.deepEqual(told, span(0, 2048))
})

test('a version of another life is answered with 0: tell all that you know', () => {
  const first = ledgerOf({}, 1)
  const second = ledgerOf({}, 2)
  const a = new TestNode(first, 'a', { size: 4 * MIB })
  a.seeds([0, 1, 2]).dispatch(0)
  const answer = second.dispatch(
    {
      peer: 'a',
      version: a.version,
      have: fieldOf(8, [0, 1, 2]),
      cuts: [],
      pulling: true,
      seed: { rate: 0 },
    },
    10,
  )
  assert.equal(answer.version, 0)
  assert.ok(answer.retryMs <= 100)
})

test('the first cut of an index wins, another is noted and takes over when the first proves wrong', () => {
  const ledger = ledgerOf()
  const [a, b, c] = ['a', 'b', 'c'].map((id) => new TestNode(ledger, id, { size: 4 * MIB })) as [
    TestNode,
    TestNode,
    TestNode,
  ]
  a.dispatch(0)
  b.dispatch(0)
  a.fresh.push(cutOf(0, 'a', { cid: 'wrong' }))
  a.gets([0]).dispatch(1)
  b.fresh.push(cutOf(0, 'b', { cid: 'right' }))
  b.gets([0]).dispatch(2)
  assert.equal(c.dispatch(3).cuts[0]?.cid, 'wrong')
  ledger.reject(0, 'wrong', true)
  const news = c.dispatch(4)
  assert.equal(news.cuts[0]?.cid, 'right')
  a.fresh.push(cutOf(0, 'a', { cid: 'wrong' }), cutOf(1, 'a', { cid: 'wrong too' }))
  assert.deepEqual(a.dispatch(5).leases, [], 'who lied gets no lease')
  assert.deepEqual(
    c.dispatch(6).cuts.map((cut) => cut.cid),
    [],
  )
})

test('a rejected block is seeded again, whatever nodes still claim to have', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  a.dispatch(0)
  a.seeds(span(0, 8)).dispatch(1)
  b.dispatch(2)
  b.gets(span(0, 8)).dispatch(3)
  ledger.reject(2, 'cid-2', false)
  assert.deepEqual(rangeOf(b.dispatch(4).leases[0]), [2, 1])
  assert.equal(a.dispatch(5).leases.length, 0)
  b.fresh.push(cutOf(2, 'b', { cid: 'better' }))
  const answer = b.dispatch(6)
  assert.deepEqual(answer.leases, [])
  assert.deepEqual(a.dispatch(7).cuts[0]?.cid, 'better')
})

test('shunning a seeder sets all its cuts free, and its word for the size', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 2 * MIB })
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  a.dispatch(0)
  assert.equal(b.dispatch(1).size, 2 * MIB)
  a.seeds([0, 1, 2]).dispatch(2)
  ledger.reject(1, 'cid-1', true)
  const answer = b.dispatch(3)
  assert.equal(answer.size, 4 * MIB)
  assert.equal(answer.leases[0]?.start, 0)
})

test('claims that nobody can check do not stop the others for ever', () => {
  const ledger = ledgerOf()
  const liar = new TestNode(ledger, 'liar', { size: 4 * MIB })
  liar.pulling = false
  liar.gets(span(0, 8)).dispatch(0)
  const nodes = ['a', 'b'].map((id) => new TestNode(ledger, id, { size: 4 * MIB }))
  let now = 0
  for (; now < 20_000 && !nodes.every((node) => node.have.size === 8); now += 100) {
    if (now % 500 === 0) liar.dispatch(now)
    for (const node of nodes) {
      const answer = node.dispatch(now)
      const lease = answer.leases[0]
      const index = lease && span(lease.start, lease.start + lease.count).find((i) => !node.have.has(i))
      if (index !== undefined) node.seeds([index])
      for (const other of nodes) node.gets(other.have)
    }
  }
  assert.ok(now < 8000, `${now} ms`)
})

test('a node that gets nothing of many holders fetches for itself', () => {
  const ledger = ledgerOf()
  for (const id of ['x', 'y', 'z']) {
    const full = new TestNode(ledger, id, { size: 4 * MIB })
    full.pulling = false
    full.gets(span(0, 8)).dispatch(0)
  }
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  for (let now = 0; now < 5000; now += 100) assert.deepEqual(a.dispatch(now).leases, [])
  assert.deepEqual(rangeOf(a.dispatch(5100).leases[0]), [0, 8])
  assert.equal(a.last?.holders.length, 3, 'three nodes are not all liars')
  a.seeds(span(0, 8)).dispatch(5200)
  assert.deepEqual(a.dispatch(5300).leases, [])
})

test('a node that was away for long is not taken for a stranded one', () => {
  const ledger = ledgerOf()
  const full = new TestNode(ledger, 'full', { size: 4 * MIB })
  full.pulling = false
  full.gets(span(0, 8)).dispatch(0)
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  a.dispatch(0)
  assert.deepEqual(a.dispatch(20_000).leases, [])
  assert.deepEqual(a.dispatch(20_100).leases, [])
})

test('a new coordinator waits for reports before it leases what somebody is likely to have', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  a.fresh.push(...span(0, 8).map((index) => cutOf(index, 'gone')))
  a.gets([0, 1])
  assert.deepEqual(a.dispatch(0).leases, [])
  assert.equal(a.last?.refusal, undefined)
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  b.gets(span(0, 5)).dispatch(100)
  assert.deepEqual(a.dispatch(200).leases, [])
  assert.equal(a.dispatch(700).leases[0]?.start, 5)
})

test('a lone node that starts again does not wait', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  assert.deepEqual(rangeOf(a.seeds([0, 1]).dispatch(0).leases[0]), [2, 6])
})

test('a question of a node that neither has nor wants the blob leaves no trace', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  a.dispatch(0)
  a.seeds([0, 1]).dispatch(10)
  const ask = (peer: string): number =>
    ledger.dispatch({ peer, version: 0, have: new Uint8Array(0), cuts: [], pulling: false }, 30).holders
      .length
  assert.equal(ask('stranger'), 1)
  assert.equal(ask('a'), 0)
  assert.equal(a.dispatch(30).leases.length, 1, 'the question in its name took nothing from it')
  assert.equal(ask('other'), 1, 'the first stranger is no holder')
  ledger.forget('a')
  assert.equal(ledger.empty, true)
  assert.equal(ledger.usedAt, 30)
})

test('a node that leaves the task without any block is forgotten', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  a.dispatch(0)
  assert.equal(ledger.empty, false)
  a.pulling = false
  a.gives(a.last!.leases[0]!.id, 'idle').dispatch(10)
  assert.equal(ledger.empty, true)
})

test('correct takes back blocks; they are leased again', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  a.pulling = false
  a.gets(span(0, 8)).dispatch(0)
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  assert.deepEqual(b.dispatch(10).leases, [])
  ledger.correct('a', fieldOf(8, span(0, 6)))
  assert.deepEqual(rangeOf(b.dispatch(20).leases[0]), [6, 2])
})

test('nonsense in reports is ignored', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 2 * MIB })
  a.fresh.push(
    cutOf(-1, 'a'),
    cutOf(1.5, 'a'),
    cutOf(4, 'a'),
    cutOf(1, 'a', { length: 5 }),
    cutOf(2 ** 31, 'a'),
  )
  a.gets(span(0, 100))
  const answer = a.dispatch(0)
  assert.deepEqual(answer.leases, [])
  const b = new TestNode(ledger, 'b', { size: -5 })
  const told = b.dispatch(1)
  assert.deepEqual(told.cuts, [])
  assert.equal(told.size, 2 * MIB)
  assert.deepEqual(told.holders[0]?.have, fieldOf(4, span(0, 4)))
})

test('a blob of no bytes needs no lease', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 0 })
  const answer = a.dispatch(0)
  assert.deepEqual(answer.leases, [])
  assert.equal(answer.refusal, undefined)
})

test('in a large site everybody can be reached through the neighbours that were named', () => {
  const ledger = ledgerOf()
  const nodes = span(0, 300).map((i) => new TestNode(ledger, `n${i}`, { size: GIB }))
  for (let now = 0; now < 3; now++) for (const node of nodes) node.dispatch(now)
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const seen = new Set([nodes[0]!.id])
  let edge = [nodes[0]!]
  let hops = 0
  while (edge.length > 0) {
    const next: TestNode[] = []
    for (const node of edge) {
      for (const { peer } of node.last!.holders) {
        if (seen.has(peer)) continue
        seen.add(peer)
        next.push(byId.get(peer)!)
      }
    }
    edge = next
    if (next.length > 0) hops++
  }
  assert.equal(seen.size, 300)
  assert.ok(hops <= 4, `${hops} hops`)
  for (const node of nodes) {
    assert.ok(node.last!.holders.length >= 12, `${node.last!.holders.length}`)
    assert.ok(node.last!.holders.every(({ peer }) => peer !== node.id))
  }
})

test('in a large site a node that lacks what few have is told of one of them', () => {
  const ledger = ledgerOf()
  const nodes = span(0, 200).map((i) => new TestNode(ledger, `n${i}`, { size: 4 * MIB }))
  for (const node of nodes) node.dispatch(0)
  nodes[0]!.seeds([0]).dispatch(1)
  for (const node of nodes.slice(1, 20)) {
    assert.ok(
      node.dispatch(2).holders.some(({ have }) => have[0] === 1),
      node.id,
    )
  }
})
