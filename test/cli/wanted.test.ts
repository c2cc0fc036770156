import assert from 'node:assert/strict'
import { test } from 'node:test'
import { silentLog } from '../../base/index.ts'
import type { StoreImage, StoreWanted } from '../../cli/api/index.ts'
import { keepWanted, type Wanted } from '../../cli/wanted.ts'
import type { Manager, Member } from '../../manager/types.ts'
import { storedName } from '../../proxy/index.ts'
import { createRecordsTwin } from '../manager/records-twin.ts'
import { member } from './standins.ts'

/** Nodes of a site with lists of images; `stored` is who stored what. */
function site(t: { after(action: () => unknown): void }) {
  const records = createRecordsTwin(9)
  const members: Member[] = []
  const stored: [node: string, reference: string, copies: number][] = []
  const keepers = new Map<string, Wanted>()
  t.after(() => Promise.all([...keepers.values()].map((one) => one.close())))
  return {
    members,
    stored,
    records,
    failing: false,
    start(name: string, images: StoreWanted[]) {
      const self = member(name)
      if (!members.some(({ id }) => id === self.id)) members.push(self)
      const storeImage: StoreImage = async ({ reference, copies }, { onProgress }) => {
        stored.push([name, reference, copies])
        if (this.failing) throw new Error('the uplink is cut')
        const end = { blobs: 1, blobsDone: 1, bytes: 1, bytesDone: 1 }
        onProgress(end)
        return end
      }
      const manager = {
        self,
        members: { site: () => members, settled: Promise.resolve() },
        records: records.join(self.id),
      } as unknown as Manager
      const timing = { lookMs: 5, everyMs: 1e9, retryMs: 10 }
      const made = keepWanted({ images, manager, storeImage, storedName, log: silentLog(), timing })
      keepers.set(name, made)
      return made
    },
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await pause(5)
}

test('one of the nodes that list an image stores it, in the most copies that are wanted', async (t) => {
  const here = site(t)
  here.members.push(member('bystander'))
  await here.records
    .join('x')
    .put('wanted/default/12D3KooWb', [{ name: 'docker.io/library/redis:7', copies: 3 }], { copies: 1 })
  await here.records.join('x').put('wanted/default/12D3KooWc', 'no list', { copies: 1 })
  here.members.push(member('c'), member('b'))
  here.start('a', [{ reference: 'redis:7', copies: 2 }])
  here.start('b', [{ reference: 'docker.io/library/redis:7', copies: 3 }])
  await until(() => here.stored.length > 0)
  await pause(40)
  assert.equal(here.stored.length, 1, 'once, although two list it and both look again')
  assert.equal(here.stored[0]![2], 3)
})

test('where the one that did it is gone, the next looks after it', async (t) => {
  const here = site(t)
  const names = ['a', 'b', 'c']
  for (const name of names) here.start(name, [{ reference: 'redis:7', copies: 1 }])
  await pause(50)
  const first = here.stored.at(-1)![0]
  const gone = here.members.findIndex(({ name }) => name === first)
  here.members.splice(gone, 1)
  const count = here.stored.length
  await until(() => here.stored.slice(count).some(([node]) => node !== first))
})

test('what fails is tried again', async (t) => {
  const here = site(t)
  here.failing = true
  here.start('a', [{ reference: 'redis:7', copies: 1 }])
  await until(() => here.stored.length > 2)
  here.failing = false
  await pause(30)
  const count = here.stored.length
  await pause(40)
  assert.equal(here.stored.length, count)
})

test('a list that became empty is taken back', async (t) => {
  const here = site(t)
  const keeper = here.start('a', [{ reference: 'redis:7', copies: 1 }])
  await until(() => here.stored.length > 0)
  await keeper.close()
  const table = here.records.join('x')
  assert.notEqual((await table.get(`wanted/default/${member('a').id}`))?.value, undefined)
  here.start('a', [])
  await pause(30)
  assert.equal((await table.get(`wanted/default/${member('a').id}`))?.value, undefined)
})

test('an image that has no name, or is listed twice, is an error of the configuration', (t) => {
  const here = site(t)
  assert.throws(() => here.start('a', [{ reference: 'a/B', copies: 1 }]), { code: 'CONFIG' })
  const twice = [
    { reference: 'redis', copies: 1 },
    { reference: 'docker.io/library/redis:latest', copies: 2 },
  ]
  assert.throws(() => here.start('a', twice), { code: 'CONFIG', message: /listed twice/ })
})
