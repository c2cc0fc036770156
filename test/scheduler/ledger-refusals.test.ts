import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ledgerOf, MIB, rangeOf, span, TestNode } from './helpers.ts'

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

/** One node that claims to have everything, and three pullers that get nothing of it; upstream answers none of them. */
function stuckSite() {
  const ledger = ledgerOf()
  const full = new TestNode(ledger, 'full', { size: 4 * MIB })
  full.pulling = false
  full.gets(span(0, 8)).dispatch(0)
  const nodes = ['a', 'b', 'c'].map((id) => new TestNode(ledger, id, { size: 4 * MIB }))
  const dispatch = (now: number): void => {
    for (const node of nodes) {
      const lease = node.dispatch(now).leases[0]
      if (lease) node.gives(lease.id, 'unreachable')
    }
  }
  return { nodes, dispatch }
}

test('while upstream is out of reach, a holder that is slow is still believed', () => {
  const { nodes, dispatch } = stuckSite()
  for (let now = 0; now < 15_000; now += 100) {
    dispatch(now)
    for (const node of nodes) assert.equal(node.last?.refusal, undefined, `at ${now} ms`)
  }
  const heard = nodes.filter((node) =>
    node.last?.holders.some(({ peer, have }) => peer === 'full' && have[0] === 255),
  )
  assert.ok(heard.length >= 2, 'they are told where the blocks are')
})

test('but not for ever', () => {
  const { nodes, dispatch } = stuckSite()
  let now = 0
  for (; now < 60_000 && !nodes.some((node) => node.last?.refusal); now += 100) dispatch(now)
  assert.ok(now > 15_000 && now < 40_000, `${now} ms`)
})
