import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type Digest, digestOf, silentLog } from '../../base/index.ts'
import { openBlockStore } from '../../blockstore/index.ts'
import { createScrubs } from '../../cli/api/scrubs.ts'

const DAY = 86400e3
const A = digestOf(Buffer.from('a'))

async function setUp(t: TestContext, options: { everyMs?: number; now?: () => number } = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-scrubs-'))
  const store = await openBlockStore({ dir })
  const repaired: Digest[] = []
  const make = () =>
    createScrubs({
      store,
      last: store.records('scrub'),
      repair: (digest) => repaired.push(digest),
      log: silentLog(),
      everyMs: 0,
      lookMs: 10,
      ...options,
    })
  const scrubs = make()
  t.after(async () => {
    await scrubs.close()
    await store.close()
    await rm(dir, { recursive: true })
  })
  const ended = (of = scrubs) =>
    new Promise<ReturnType<typeof of.status>>((resolve) => {
      of.onChange((status) => status.state !== 'running' && resolve(status))
    })
  return { dir, store, scrubs, make, ended, repaired }
}

test('a scrub goes from running to done and tells of each step; a second one is refused meanwhile', async (t) => {
  const { dir, store, scrubs, ended, repaired } = await setUp(t)
  assert.equal(scrubs.status().state, 'never')
  assert.equal(scrubs.cancel(), false)
  const cid = await store.putSegment(A, { offset: 0 }, randomBytes(5000))
  await store.putSegment(A, { offset: 5000 }, randomBytes(5000))
  await store.markComplete(A)
  await store.pin(A, true)
  await truncate(join(dir, 'blocks', cid.slice(-1), cid), 10)
  const told: number[] = []
  scrubs.onChange(({ bytes }) => told.push(bytes))
  const started = scrubs.start({ bytesPerSecond: 1e9 })
  assert.deepEqual([started.state, started.total], ['running', 10_000])
  assert.throws(() => scrubs.start({ bytesPerSecond: 1e9 }), { code: 'BUSY' })
  const { state, blocks, bytes, bad } = await ended()
  assert.deepEqual([state, blocks, bytes, bad], ['done', 2, 10_000, 1])
  assert.deepEqual(told, [0, 5000, 10_000, 10_000])
  assert.deepEqual(repaired, [A], 'what is pinned shall be whole')
  scrubs.start({ bytesPerSecond: 1e9 })
  assert.equal((await ended()).bad, 0)
})

test('one that is cancelled says so, and closing ends it', async (t) => {
  const { store, scrubs, ended } = await setUp(t)
  await store.putSegment(A, { offset: 0 }, randomBytes(5000))
  scrubs.start({ bytesPerSecond: 1 })
  assert.equal(scrubs.cancel(), true)
  assert.equal((await ended()).state, 'cancelled')
  scrubs.start({ bytesPerSecond: 1 })
  await scrubs.close()
  assert.equal(scrubs.status().state, 'cancelled')
})

test('a scrub comes by itself when the last one is long enough ago, over restarts too', async (t) => {
  let time = 1_000 * DAY
  const { store, scrubs, make, ended } = await setUp(t, { everyMs: 7 * DAY, now: () => time })
  const last = store.records<{ finishedAt: number }>('scrub')
  while ((await last.get('last')) === undefined) await new Promise((resolve) => setTimeout(resolve, 5))
  // Its place is taken by others, as after a restart.
  await scrubs.close()
  time += 6 * DAY
  const early = make()
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.equal(early.status().state, 'never')
  await early.close()
  time += 2 * DAY
  const due = make()
  assert.equal((await ended(due)).state, 'done')
  assert.deepEqual(await last.get('last'), { finishedAt: time })
  await due.close()
})
