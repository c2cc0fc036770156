import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, it } from 'node:test'
import fc from 'fast-check'
import { isShoalError, ShoalError, silentLog } from '../../base/index.ts'
import { createClock } from '../../manager/records/clock.ts'
import { createTable } from '../../manager/records/table.ts'
import type { SharedRecord } from '../../manager/types.ts'
import { createRecordsCluster, memoryStore, type RecordsCluster } from './records-cluster.ts'
import { until } from './until.ts'

const DAY_MS = 24 * 3600_000

async function all(entries: AsyncIterable<SharedRecord>): Promise<[string, unknown][]> {
  const found: [string, unknown][] = []
  for await (const { key, value } of entries) found.push([key, value])
  return found
}

describe('shared records', () => {
  let cluster: RecordsCluster
  beforeEach(() => {
    cluster = createRecordsCluster()
  })
  afterEach(() => cluster.close())

  it('are on the confirming nodes when a put resolves, and on all soon', async () => {
    const [a, b, c] = ['a', 'b', 'c'].map(cluster.add)
    const stamp = await a!.records.put('tag/x', { digest: 'd1' }, { copies: 3 })
    for (const node of [a, b, c]) {
      assert.deepEqual(await node!.records.get('tag/x'), {
        key: 'tag/x',
        value: { digest: 'd1' },
        stamp,
        beaten: [],
      })
    }
    await b!.records.put('tag/y', [1], { copies: 1 })
    await b!.records.put('other', 1, { copies: 1 })
    await cluster.equal()
    assert.deepEqual(await all(c!.records.entries('tag/')), [
      ['tag/x', { digest: 'd1' }],
      ['tag/y', [1]],
    ])
    assert.equal(await c!.records.get('tag/z'), undefined)
  })

  it('tell listeners of what took effect here, whoever wrote it', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    const heard: [string, unknown][] = []
    const stop = b!.records.onChange('t/', ({ key, value }) => heard.push([key, value]))
    b!.records.onChange('t/', () => {
      throw new Error('a listener that fails hurts nobody')
    })
    await a!.records.put('t/1', 1, { copies: 2 })
    await a!.records.put('u/1', 1, { copies: 2 })
    await b!.records.put('t/1', undefined, { copies: 2 })
    stop()
    await b!.records.put('t/2', 2, { copies: 2 })
    assert.deepEqual(heard, [
      ['t/1', 1],
      ['t/1', undefined],
    ])
  })

  it('come over a restart, and stamps go on above the highest one', async () => {
    const [a] = [cluster.add('a')]
    cluster.now = () => 5_000_000
    const before = await a.records.put('k', 1, { copies: 1 })
    cluster.now = () => 1_000_000
    await cluster.restart(a)
    assert.equal((await a.records.get('k'))?.value, 1)
    const after = await a.records.put('k', 2, { copies: 1 })
    assert.deepEqual(after, { ...before, count: before.count + 1 })
  })

  it('refuse a write at once, and write nothing, where too few nodes are there', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    await a!.records.put('k', 1, { copies: 5 })
    cluster.partition([1, 2])
    for (const node of [a, b]) {
      await assert.rejects(
        node!.records.put('k', 2, { copies: 2 }),
        (error) => isShoalError(error, 'NO_QUORUM') && error.details.written === false,
      )
    }
    assert.equal((await a!.records.get('k'))?.value, 1)
    // Also after a restart, in which the node has met nobody.
    await cluster.restart(a!)
    await assert.rejects(a!.records.put('k', 2, { copies: 2 }), { code: 'NO_QUORUM' })
    await a!.records.put('k', 2, { copies: 1 })
    cluster.partition()
    await cluster.equal()
    await b!.records.put('k', 3, { copies: 2 })
  })

  it('need only those who have not said goodbye', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    await a!.records.put('k', 1, { copies: 2 })
    await cluster.stop(b!, 'left')
    await a!.records.put('k', 2, { copies: 2 })
  })

  it('forget a node that was not met for a month', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    await a!.records.put('k', 1, { copies: 2 })
    await cluster.stop(b!, 'dead')
    await assert.rejects(a!.records.put('k', 2, { copies: 2 }), { code: 'NO_QUORUM' })
    cluster.now = () => Date.now() + 31 * DAY_MS
    await a!.records.put('k', 2, { copies: 2 })
  })

  it('of a node itself go a month after it was met', async () => {
    cluster.choresMs = 20
    const [a, b] = ['a', 'b'].map(cluster.add)
    for (const key of ['offer/b', 'wanted/x/b', 'storing/x/b/image', 'stored/x/b', 'offer/a']) {
      await b!.records.put(key, 1, { copies: 2 })
    }
    await cluster.stop(b!, 'left')
    const keys = async (): Promise<string[]> => (await all(a!.records.entries(''))).map(([key]) => key)
    await a!.records.put('offer/a', 2, { copies: 1 })
    assert.equal((await keys()).length, 5)
    cluster.now = () => Date.now() + 31 * DAY_MS
    await until(async () => (await keys()).length === 2)
    assert.deepEqual(await keys(), ['offer/a', 'stored/x/b'])
  })

  it('a full table forgets its oldest deletions, and does not take them back', async () => {
    const time = { now: 1_000_000 }
    const now = () => time.now
    const clock = createClock({ node: 'a', now })
    const table = createTable({ store: memoryStore(new Map()), clock, now, log: silentLog(), maxRecords: 20 })
    const rows = []
    for (let i = 0; i < 20; i++) {
      time.now += 1000
      rows.push(await table.write(`k${i}`, i < 10 ? undefined : '1'))
    }
    await table.write('new', '1')
    await table.write('more', '1')
    assert.equal((await table.buckets()).count, 20)
    assert.equal(await table.get('k0'), undefined)
    assert.equal(await table.get('k1'), undefined)
    assert.ok(await table.get('k2'))
    assert.deepEqual(await table.takeAll([['k0', rows[0]!]]), { taken: 1, refused: 0 })
    assert.equal(await table.get('k0'), undefined)
    // Without deletions nothing gives way.
    for (let i = 0; i < 8; i++) await table.write(`again${i}`, '1')
    await assert.rejects(table.write('too much', '1'), { code: 'STORE_FULL' })
    await table.write('new', '2')
    await table.close()
  })

  it('stand here when the confirmations do not come, and get there later', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    await a!.records.put('k', 1, { copies: 2 })
    const handler = b!.handlers.get('record.put')!
    b!.handlers.set('record.put', () => Promise.reject(new Error('a full disk')))
    await assert.rejects(
      a!.records.put('k', 2, { copies: 2 }),
      (error) => isShoalError(error, 'NO_QUORUM') && error.details.written === true,
    )
    assert.equal((await a!.records.get('k'))?.value, 2)
    b!.handlers.set('record.put', handler)
    await cluster.equal()
    assert.equal((await b!.records.get('k'))?.value, 2)
  })

  it('can be given up', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    b!.handlers.set('record.put', () => new Promise(() => {}))
    const stop = new AbortController()
    const put = a!.records.put('k', 1, { copies: 2, signal: stop.signal })
    setTimeout(() => stop.abort(), 20)
    await assert.rejects(put, { code: 'ABORTED' })
  })

  it('show who was beaten, until somebody who knows of it writes again', async () => {
    const [a, b, c] = ['a', 'b', 'c'].map(cluster.add)
    await a!.records.put('k', 'first', { copies: 3 })
    cluster.partition([1, 2, 2])
    await a!.records.put('k', 'a1', { copies: 1 })
    await a!.records.put('k', 'a2', { copies: 1 })
    await new Promise((resolve) => setTimeout(resolve, 5))
    await b!.records.put('k', 'b1', { copies: 2 })
    await c!.records.put('k', 'c1', { copies: 2 })
    cluster.partition()
    await cluster.equal()
    const { value, beaten } = (await a!.records.get('k'))!
    assert.equal(value, 'c1')
    assert.deepEqual(
      beaten.map((one) => one.value),
      ['a2'],
    )
    await a!.records.put('k', 'settled', { copies: 3 })
    assert.deepEqual((await c!.records.get('k'))?.beaten, [])
  })

  it('keep eight of those who were beaten', async () => {
    const nodes = Array.from({ length: 12 }, (_, i) => cluster.add(`node${i}`))
    cluster.partition(nodes.map((_, i) => i))
    for (const [i, node] of nodes.entries()) await node.records.put('k', i, { copies: 1 })
    cluster.partition()
    await cluster.equal()
    assert.equal((await nodes[0]!.records.get('k'))?.beaten.length, 8)
  })

  it('delete, remember it over a partition, and forget it after a month', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    await a!.records.put('k', 1, { copies: 2 })
    cluster.partition([1, 2])
    await a!.records.put('k', undefined, { copies: 1 })
    assert.equal((await a!.records.get('k'))?.value, undefined)
    assert.deepEqual(await all(a!.records.entries('')), [])
    cluster.partition()
    await cluster.equal()
    assert.deepEqual(await all(b!.records.entries('')), [])
    assert.equal(b!.rows.size, 1)
    const later = Date.now() + 31 * DAY_MS
    cluster.now = () => later
    await cluster.restart(a!)
    await until(async () => (await a!.records.get('k')) === undefined)
    // The other one has not tidied up yet, and does not bring it back.
    await new Promise((resolve) => setTimeout(resolve, 60))
    assert.equal(await a!.records.get('k'), undefined)
    assert.notEqual(await b!.records.get('k'), undefined)
  })

  it('are not beaten for ever by a clock that is far ahead', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    await a!.records.put('k', 1, { copies: 2 })
    b!.skewMs = 365 * DAY_MS
    await assert.rejects(b!.records.put('k', 'from the future', { copies: 2 }), /clock is far ahead/)
    await a!.records.put('k', 2, { copies: 2 })
    assert.equal((await a!.records.get('k'))?.value, 2)
  })

  it('keep the time of the others where a clock is wrong, and they are two', async () => {
    const [a, b, c] = ['a', 'b', 'c'].map(cluster.add)
    await cluster.equal()
    b!.skewMs = -30 * DAY_MS
    await a!.records.put('k', 1, { copies: 2 })
    await cluster.equal()
    assert.equal((await b!.records.get('k'))?.value, 1)
    cluster.partition([1, 2, 1])
    await c!.records.put('k', 2, { copies: 2 })
    await cluster.restart(b!)
    cluster.partition()
    await cluster.equal()
    await b!.records.put('k', 3, { copies: 3 })
    assert.equal((await a!.records.get('k'))?.value, 3)
    // And one that runs ahead writes as the others do.
    b!.skewMs = 30 * DAY_MS
    await cluster.restart(b!)
    const stamp = await b!.records.put('k', 4, { copies: 3 })
    assert.ok(stamp.ms < Date.now() + DAY_MS)
  })

  it('refuse keys and values that are too long', async () => {
    const a = cluster.add('a')
    for (const key of ['', 'x'.repeat(1025), '\ud800']) {
      await assert.rejects(a.records.put(key, 1, { copies: 1 }), { code: 'NAME_INVALID' })
    }
    await assert.rejects(a.records.put('k', 'x'.repeat(256 * 1024), { copies: 1 }), { code: 'USAGE' })
    await a.records.put('k', 'x'.repeat(256 * 1024 - 2), { copies: 1 })
  })

  it('bring 5,000 of them to a new node in messages of bounded size', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    cluster.partition([1, 2])
    for (let i = 0; i < 5000; i++) {
      const [writer, other] = i % 5 === 0 ? [b!, a!] : [a!, b!]
      await writer.records.put(`key/${i}`, { i, text: 'x'.repeat(i % 700) }, { copies: 1 })
      assert.equal(other.rows.has(`key/${i}`), false)
    }
    cluster.longest = 0
    cluster.partition()
    await cluster.equal()
    assert.equal(a!.rows.size, 5000)
    assert.ok(cluster.longest < 2 ** 20, `${cluster.longest} bytes in one message`)
    const one = cluster.add('c')
    await cluster.equal()
    assert.equal((await all(one.records.entries('key/'))).length, 5000)
    // One difference costs little.
    cluster.partition([1, 1, 2])
    await a!.records.put('key/77', 'changed', { copies: 2 })
    cluster.longest = 0
    cluster.partition()
    await cluster.equal()
    assert.ok(cluster.longest < 16_384, `${cluster.longest} bytes in one message`)
  })

  it('refuse what is malformed, and are none the worse', async () => {
    const a = cluster.add('a')
    await a.records.put('k', 1, { copies: 1 })
    const stamp = [1, 0, 'b']
    const good = ['k2', [[...stamp, '1']], [stamp]]
    const broken: [string, unknown][] = [
      ['put', undefined],
      ['put', { rows: 'x' }],
      ['put', { rows: [good, 7] }],
      ['put', { rows: [['', [[...stamp, '1']], [stamp]]] }],
      ['put', { rows: [['x'.repeat(1025), [[...stamp, '1']], [stamp]]] }],
      ['put', { rows: [['k2', [], [stamp]]] }],
      ['put', { rows: [['k2', [[...stamp, '{']], [stamp]]] }],
      ['put', { rows: [['k2', [[...stamp, 7]], [stamp]]] }],
      ['put', { rows: [['k2', [[...stamp, JSON.stringify('x'.repeat(2 ** 18))]], [stamp]]] }],
      ['put', { rows: [['k2', [[-1, 0, 'b', '1']], [stamp]]] }],
      ['put', { rows: [['k2', [[1, 2 ** 40, 'b', '1']], [stamp]]] }],
      ['put', { rows: [['k2', [[1, 0, 'b'.repeat(129), '1']], [stamp]]] }],
      ['put', { rows: [['k2', Array(10).fill([...stamp, '1']), [stamp]]] }],
      ['put', { rows: [['k2', [[...stamp, '1']], Array(65).fill(stamp)]] }],
      ['put', { rows: Array(1025).fill(good) }],
      ['keys', { buckets: [256] }],
      ['keys', { buckets: [3, 3] }],
      ['keys', { buckets: [3], from: [3] }],
      ['get', { keys: [''] }],
      ['get', { keys: Array(4097).fill('k') }],
    ]
    for (const [method, body] of broken) {
      const answer = a.handlers.get(`record.${method}`)!('b', body, new AbortController().signal)
      await assert.rejects(answer, { code: 'PROTOCOL' }, JSON.stringify(body)?.slice(0, 100))
    }
    await fc.assert(
      fc.asyncProperty(fc.constantFrom('put', 'keys', 'get'), fc.anything(), async (method, body) => {
        await a.handlers.get(`record.${method}`)!('b', body, new AbortController().signal).catch((error) => {
          assert.ok(isShoalError(error, 'PROTOCOL'), String(error))
        })
      }),
    )
    assert.deepEqual(await all(a.records.entries('')), [['k', 1]])
  })

  it('are taken as far as there is room', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    cluster.partition([1, 2])
    for (let i = 0; i < 20; i++) await a!.records.put(`k${i}`, i, { copies: 1 })
    cluster.onWrite = (node, key) => {
      if (node === 'b' && /[02468]$/.test(key)) throw new ShoalError('STORE_FULL', 'no room')
    }
    cluster.partition()
    await until(() => b!.rows.size >= 10)
    assert.equal(b!.rows.size, 10)
    cluster.onWrite = () => {}
    await cluster.equal()
  })

  it('stop asking a peer that lists its records without an end', async () => {
    const [a, b] = ['a', 'b'].map(cluster.add)
    cluster.partition([1, 2])
    await a!.records.put('k', 1, { copies: 1 })
    let asked = 0
    b!.handlers.set('record.keys', async () => {
      asked++
      return { keys: [], next: [3, 'again'] }
    })
    cluster.partition()
    await until(() => asked > 0)
    await new Promise((resolve) => setTimeout(resolve, 100))
    assert.ok(asked < 100)
    assert.equal((await a!.records.get('k'))?.value, 1)
  })
})
