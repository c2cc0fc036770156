import assert from 'node:assert/strict'
import { it } from 'node:test'
import { type Digest, digestOf, silentLog } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { createCatalog } from '../../manager/storing/catalog.ts'
import { createKeeping } from '../../manager/storing/keeping.ts'
import type { Layout } from '../../manager/storing/layout.ts'
import type { Peers } from '../../manager/storing/peers.ts'
import type { Taking } from '../../manager/storing/taking.ts'
import { createRecordsTwin } from './records-twin.ts'

it('a share is not let go of because the record that wants it comes a little late', async () => {
  const twin = createRecordsTwin(2)
  const log = silentLog()
  const records = twin.join('self')
  const catalog = createCatalog({ records, self: 'self', site: 's', counts: () => true, log })
  const forgotten: Digest[] = []
  const keeping = createKeeping({
    self: 'self',
    catalog,
    layout: { live: () => ['self'], keeperOf: () => 'other', state: () => '' } as unknown as Layout,
    peers: {} as Peers,
    taking: { forget: async (digest: Digest) => void forgotten.push(digest) } as unknown as Taking,
    store: { async *keptBlobs() {} } as unknown as BlockStore,
    orphanMs: 60_000,
    log,
  })
  const storer = createCatalog({ records: twin.join('o'), self: 'o', site: 's', counts: () => true, log })
  const digest = digestOf(Buffer.from('a'))
  const image = { name: 'h/a:1', digest, copies: 1, blobs: [{ digest, size: 5 }], site: 's' }
  const end = await storer.begin(image)
  await end()
  assert.equal(catalog.blob(digest), undefined)
  await new Promise((resolve) => setTimeout(resolve, 1500))
  await storer.put(image, AbortSignal.timeout(10_000))
  assert.deepEqual(forgotten, [])
  await keeping.close()
})
