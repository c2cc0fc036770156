import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Digest, silentLog } from '../../../base/index.ts'
import type { CheckpointDocument } from '../../../integration/checkpoint/document.ts'
import { createExpiry } from '../../../integration/checkpoint/expiry.ts'
import { createPublished, type Published } from '../../../integration/checkpoint/published.ts'
import { createSlots } from '../../../integration/checkpoint/slots.ts'
import type { Membership } from '../../../manager/index.ts'
import { createCatalog } from '../../../manager/storing/catalog.ts'
import { createRecordsTwin } from '../../manager/records-twin.ts'
import { SECRET } from './tools.ts'

const signal = AbortSignal.timeout(60_000)
const DIGEST: Digest = `sha256:${'a'.repeat(64)}`
const MINUTE = 60_000

/** Nodes over one table of records, with a clock that is set by hand: what they keep is only told. */
function cluster() {
  const clock = { now: Date.now() }
  const now = (): number => clock.now
  const twin = createRecordsTwin(2, now)
  const keys = new Set<string>()
  const watching = twin.join('watching')
  watching.onChange('', ({ key }) => keys.add(key))
  const stops: (() => Promise<void>)[] = []

  function join(self: string) {
    const records = twin.join(self)
    const log = silentLog()
    const identity = { sign: () => Buffer.from(self), verify: () => true }
    const members = { list: () => [] } as unknown as Pick<Membership, 'list'>
    const trust = { identity: identity as never, secret: SECRET }
    const catalog = createCatalog({ records, self, site: 'here', counts: () => true, log })
    const storing = {
      forget: (name: string) => catalog.remove(name),
      ofRepository: async () => catalog.images(),
    }
    const published = createPublished({ records, members, self, trust, log, now })
    const slots = createSlots({ records, storing, self, now })
    const images = { kept: async () => [] } as never
    const expiry = createExpiry({ published, storing, images, self, site: 'here', log, now, everyMs: 1e9 })
    stops.push(() => expiry.close())
    /** As `createCheckpoint` does it. */
    async function make(more: Partial<CheckpointDocument> = {}): Promise<CheckpointDocument> {
      const { slot, storedAs, release } = await slots.take('app')
      const image = { name: storedAs, digest: DIGEST, copies: 1, blobs: [], site: 'here' }
      const end = await catalog.begin(image)
      await catalog.put(image, signal)
      await end()
      const draft = {
        name: 'app',
        node: self,
        site: 'here',
        slot,
        storedAs,
        createdAt: now(),
        copies: 1,
        ...more,
        recipe: DIGEST,
        digest: DIGEST,
        blobs: [],
        size: 1,
        added: 1,
        needs: { cpu: [] },
        container: { name: 'app', runtime: 'runc' },
        inside: {},
      }
      try {
        return await published.publish(draft as unknown as Parameters<Published['publish']>[0], signal)
      } finally {
        release()
      }
    }
    return { records, catalog, published, slots, expiry, make }
  }
  return { clock, keys, join, close: () => Promise.all(stops.map((stop) => stop())) }
}

test('100 versions of which three are kept use a handful of records again and again', async (t) => {
  const { clock, keys, join, close } = cluster()
  t.after(close)
  const a = join('a')
  for (let i = 1; i <= 100; i++) {
    clock.now += MINUTE / 2
    assert.equal((await a.make()).version, i)
    const own = await a.published.list('app')
    for (const old of own.slice(0, -3)) await a.expiry.remove(old, signal)
  }
  assert.deepEqual(
    (await a.published.list()).map(({ version }) => version),
    [98, 99, 100],
  )
  assert.equal(a.catalog.images().length, 3)
  assert.ok(keys.size <= 3 * 7, `${keys.size} records: ${[...keys].join(' ')}`)
})

test('a place is used again by who made it free, a while ago; a late removal of what was there hits nothing', async (t) => {
  const { clock, join, close } = cluster()
  t.after(close)
  const [a, b] = [join('a'), join('b')]
  const [one, two] = await Promise.all([a.slots.take('app'), a.slots.take('app')])
  assert.deepEqual([one.slot, two.slot], [1, 2])
  for (const { release } of [one, two]) release()

  const first = await a.make()
  await a.expiry.remove(first, signal)
  const second = await a.make()
  assert.deepEqual([first.slot, second.slot], [1, 2], 'one that was removed a moment ago rests')
  clock.now += MINUTE
  const third = await a.make()
  assert.deepEqual([third.slot, third.version], [1, 2])
  await b.expiry.remove(first, signal)
  assert.deepEqual((await a.published.find({ name: 'app', version: 2, digest: undefined })).slot, 1)
  assert.equal(a.catalog.images().length, 2)

  await b.expiry.remove(third, signal)
  clock.now += 10 * MINUTE
  assert.equal((await a.make()).slot, 3, 'another node made slot 1 free')
})
