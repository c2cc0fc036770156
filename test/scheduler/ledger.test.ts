import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_LIMITS, type Lease } from '../../scheduler/index.ts'
import { BLOCK, cutOf, fieldOf, ledgerOf, MIB, span, TestNode } from './helpers.ts'

const GIB = 1024 * MIB

function rangeOf(lease: Lease | undefined): [number, number] {
  assert.ok(lease, 'no lease')
  return [lease.start, lease.count]
}

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

test('what upstream ignores ranges for is leased whole, to one node at a time', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 64 * MIB })
  const b = new TestNode(ledger, 'b', { size: 64 * MIB })
  a.dispatch(0)
  b.dispatch(0)
  a.gives(a.last!.leases[0]!.id, 'no-range')
  assert.deepEqual(rangeOf(a.dispatch(10).leases[0]), [0, Number.POSITIVE_INFINITY])
  b.gives(b.last!.leases[0]!.id, 'no-range')
  assert.deepEqual(b.dispatch(12).leases, [])
  a.seeds(span(0, 50)).dispatch(900)
  assert.equal(a.last?.leases.length, 1)
  ledger.forget('a')
  assert.deepEqual(rangeOf(b.gets(span(0, 40)).dispatch(1000).leases[0]), [0, Number.POSITIVE_INFINITY])
  b.seeds(span(40, 128)).gives(b.last!.leases[0]!.id, 'done').dispatch(1500)
  assert.deepEqual(b.dispatch(1600).leases, [])
})

test('404 is told at once to a lone node', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a')
  a.gives(a.dispatch(0).leases[0]!.id, 'missing', 'registry says 404')
  const answer = a.dispatch(20)
  assert.deepEqual(answer.refusal, { reason: 'missing', detail: 'registry says 404' })
  assert.deepEqual(answer.leases, [])
  assert.equal(a.dispatch(20_000).refusal?.reason, 'missing')
  assert.equal(a.dispatch(31_000).leases.length, 1)
})

test('another node that could is tried before anybody is refused', () => {
  const ledger = ledgerOf()
  const [a, b, c] = ['a', 'b', 'c'].map((id) => new TestNode(ledger, id)) as [TestNode, TestNode, TestNode]
  c.seed = undefined
  a.dispatch(0)
  b.dispatch(0)
  c.dispatch(0)
  a.gives(a.last!.leases[0]!.id, 'denied', '403')
  assert.equal(a.dispatch(10).refusal, undefined)
  assert.equal(c.dispatch(11).refusal, undefined)
  assert.equal(b.dispatch(12).leases.length, 1)
  b.gives(b.last!.leases[0]!.id, 'unreachable', 'timeout')
  for (const node of [b, a, c]) assert.equal(node.dispatch(50).refusal?.reason, 'denied')
})

test('when three nodes were told 404, a thousand others need not ask upstream too', () => {
  const ledger = ledgerOf()
  const nodes = span(0, 1000).map((i) => new TestNode(ledger, `n${i}`, { size: MIB }))
  let asked = 0
  let refused = 0
  for (const node of nodes) {
    for (const lease of node.dispatch(asked).leases) {
      asked++
      node.gives(lease.id, 'missing')
      if (node.dispatch(asked).refusal !== undefined) refused++
    }
  }
  assert.ok(refused >= asked - 2)
})

test('an uplink that comes back is used again', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  a.gives(a.dispatch(0).leases[0]!.id, 'unreachable')
  assert.equal(a.dispatch(10).refusal?.reason, 'unreachable')
  a.gives(a.dispatch(2100).leases[0]!.id, 'unreachable')
  a.dispatch(2200)
  assert.equal(a.dispatch(4300).leases.length, 0, 'the second wait is twice as long')
  assert.equal(a.dispatch(6300).leases.length, 1)
  a.seeds(span(0, 8)).dispatch(6400)
  assert.equal(a.last?.refusal, undefined)
})

test('nobody who can seed: refused while blocks are missing, not when all are here', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: MIB, seed: undefined })
  assert.equal(a.dispatch(0).refusal?.reason, 'unreachable')
  const b = new TestNode(ledger, 'b', { size: MIB })
  b.pulling = false
  b.seeds([0, 1]).dispatch(10)
  assert.equal(a.dispatch(20).refusal, undefined)
})

test('who says done without delivering is not given the range again if another can take it', () => {
  const ledger = ledgerOf()
  const a = new TestNode(ledger, 'a', { size: 4 * MIB })
  const b = new TestNode(ledger, 'b', { size: 4 * MIB })
  b.dispatch(0)
  ledger.forget('b')
  a.dispatch(1)
  b.dispatch(2)
  a.gives(a.last!.leases[0]!.id, 'done')
  assert.deepEqual(a.dispatch(10).leases, [])
  assert.deepEqual(rangeOf(b.dispatch(11).leases[0]), [0, 8])
})

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
