import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { digestOf, silentLog } from '../../base/index.ts'
import { createCatalog } from '../../manager/storing/catalog.ts'
import { createLayout, sharesOf } from '../../manager/storing/layout.ts'
import { readHoldings, readRelease, readTake } from '../../manager/storing/messages.ts'
import type { Member, Membership } from '../../manager/types.ts'
import { countBits } from '../../scheduler/index.ts'
import { createRecordsTwin } from './records-twin.ts'

const digest = digestOf(Buffer.from('a'))
const other = digestOf(Buffer.from('b'))
const MIB = 2 ** 20

function members(ids: string[]) {
  const listeners = new Set<() => void>()
  const of = (id: string): Member => ({ id, name: id, site: 's', addrs: [], state: 'alive', incarnation: 0 })
  const membership: Membership = {
    self: of(ids[0]!),
    list: () => ids.map(of),
    site: () => ids.map(of),
    find: () => undefined,
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    doubt: () => {},
    settled: Promise.resolve(),
  }
  return {
    membership,
    become(now: string[]) {
      ids = now
      for (const listener of listeners) listener()
    },
  }
}

describe('who keeps what', () => {
  it('counts a node that is away until the delay is over, or it is given up', () => {
    let clock = 0
    const { membership, become } = members(['a', 'b', 'c'])
    const layout = createLayout({ members: membership, leaveAfterMs: 1000, now: () => clock })
    clock = 5000
    become(['a', 'c'])
    assert.deepEqual([layout.counts('b'), layout.counts('never')], [true, false])
    const offers = new Map([
      ['a', 1],
      ['b', 1],
      ['c', 0],
    ])
    const before = layout.state(offers)
    assert.deepEqual(
      layout.weigh([], offers, layout.counts).map(({ id }) => id),
      ['a', 'b'],
      'who offers nothing keeps nothing',
    )
    clock = 6001
    assert.equal(layout.counts('b'), false)
    assert.notEqual(layout.state(offers), before)
    become(['a', 'b', 'c'])
    assert.equal(layout.counts('b'), true)
    become(['a', 'c'])
    layout.giveUp()
    assert.equal(layout.counts('b'), false)
    become(['a', 'b', 'c'])
    become(['a', 'c'])
    assert.equal(layout.counts('b'), true, 'given up once is not for ever')
  })

  it('waits for the nodes that it has not seen since it started', () => {
    let clock = 0
    const { membership } = members(['a'])
    const layout = createLayout({ members: membership, leaveAfterMs: 1000, now: () => clock })
    assert.equal(layout.counts('b'), true)
    clock = 1000
    assert.equal(layout.counts('b'), false)
  })

  it('gives every block of a blob to a node', () => {
    const nodes = ['a', 'b', 'c'].map((id) => ({ id, weight: 1 }))
    const shares = sharesOf({ digest, size: 10 * MIB + 1, copies: 2 }, nodes)
    assert.equal(
      [...shares.values()].reduce((sum, share) => sum + countBits(share), 0),
      22,
    )
    assert.equal(sharesOf({ digest, size: 0, copies: 2 }, nodes).size, 0)
  })
})

describe('the records of stored images', () => {
  const catalogOf = (twin: ReturnType<typeof createRecordsTwin>, self: string, counts = () => true) =>
    createCatalog({ records: twin.join(self), self, site: 's', counts, log: silentLog() })
  const image = (name: string, copies: number, digests = [digest]) => ({
    name,
    digest,
    copies,
    blobs: digests.map((of) => ({ digest: of, size: 5 })),
    site: 's',
  })
  const signal = AbortSignal.timeout(60_000)

  it('give a blob the most copies that an image of it wants, and free what none wants', async () => {
    const twin = createRecordsTwin(3)
    const [one, two] = [catalogOf(twin, 'one'), catalogOf(twin, 'two')]
    const freed: string[] = []
    two.onChange((digests) => freed.push(...digests))
    await one.put(image('h/a:1', 1), signal)
    await one.put(image('h/b:1', 3, [digest, other]), signal)
    assert.equal(two.blob(digest)?.copies, 3)
    assert.equal(await two.remove('h/b:1'), true)
    assert.equal(await two.remove('h/b:1'), false)
    assert.deepEqual(freed, [other])
    assert.equal(one.blob(digest)?.copies, 1)
  })

  it('do not count what another site stores or offers', async () => {
    const twin = createRecordsTwin(2)
    const catalog = catalogOf(twin, 'one')
    await twin.join('x').put('stored/elsewhere/h/a:1', image('h/a:1', 1), { copies: 1 })
    await twin.join('x').put('offer/x', { site: 'elsewhere', bytes: 5 }, { copies: 1 })
    const below = createCatalog({
      records: twin.join('x'),
      self: 'x',
      site: 's/h',
      counts: () => true,
      log: silentLog(),
    })
    await below.put(image('h/a:1', 1), signal)
    await catalog.offer(7)
    assert.deepEqual(catalog.images(), [])
    assert.deepEqual([...catalog.offers()], [['one', 7]])
    // Who was forgotten says it again.
    await twin.join('two').put('offer/one', undefined, { copies: 1 })
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual([...catalog.offers()], [['one', 7]])
  })

  it('hold what is being stored until its end, or the end of who stores it', async () => {
    const twin = createRecordsTwin(2)
    let there = true
    const catalog = catalogOf(twin, 'one', () => there)
    const storer = catalogOf(twin, 'two')
    const end = await storer.begin(image('h/a:1', 1))
    assert.equal(catalog.blob(digest)?.pending, true)
    there = false
    assert.deepEqual(catalog.blobs(), [])
    there = true
    assert.equal(catalog.blobs().length, 1)
    await storer.put(image('h/a:1', 1), signal)
    assert.equal(catalog.blob(digest)?.pending, false)
    await end()
    assert.equal(catalog.blob(digest)?.pending, false)
    await storer.begin(image('h/z:1', 1, [other]))
    // It starts again, and was not told to go on.
    await catalogOf(twin, 'two').ready
    assert.equal(catalog.blob(other), undefined)
  })

  it('are checked: what is not understood is not there', async () => {
    const twin = createRecordsTwin(1)
    const catalog = catalogOf(twin, 'one')
    const good = image('h/a:1', 1)
    const bad = [
      5,
      { ...good, digest: '../../etc' },
      { ...good, copies: -1 },
      { ...good, copies: 1e9 },
      { ...good, blobs: [{ digest, size: -1 }] },
      { ...good, blobs: [null] },
      { ...good, blobs: 'no' },
      { ...good, blobs: Array(5000).fill(good.blobs[0]) },
    ]
    for (const [at, value] of bad.entries())
      await twin.join('x').put(`stored/s/h/${at}:1`, value, { copies: 1 })
    await twin.join('x').put('offer/x', { site: 's', bytes: 'many' }, { copies: 1 })
    assert.deepEqual(catalog.images(), [])
    assert.deepEqual(catalog.blobs(), [])
    assert.equal(catalog.offers().size, 0)
  })
})

describe('messages about copies', () => {
  it('are refused when malformed', () => {
    const take = { blob: { digest, size: 5 }, keep: new Uint8Array(1), sources: [['a', new Uint8Array(1)]] }
    assert.deepEqual(readTake(take).blob, { digest, size: 5 })
    for (const wrong of [
      {},
      { ...take, keep: 'all' },
      { ...take, keep: Uint8Array.of(2) },
      { ...take, keep: new Uint8Array(2 ** 18) },
      { ...take, blob: { digest, size: 2 ** 50 } },
      { ...take, blob: { digest: 'x', size: 5 } },
      { ...take, sources: [['a']] },
      { ...take, sources: Array(100).fill(['a', new Uint8Array(1)]) },
    ])
      assert.throws(() => readTake(wrong), { code: 'PROTOCOL' })
    assert.throws(() => readRelease({ digest }), { code: 'PROTOCOL' })
    assert.throws(() => readHoldings({ holdings: [] }, 1), { code: 'PROTOCOL' })
    assert.throws(() => readHoldings({ holdings: [[1, 2]] }, 1), { code: 'PROTOCOL' })
  })
})
