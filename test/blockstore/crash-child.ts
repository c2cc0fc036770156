/** Works on a store until it is killed: `crash-child.ts DIR ROUND`; tells its parent what it was told is stored. */
import { randomBytes } from 'node:crypto'
import { isShoalError } from '../../base/index.ts'
import { openBlockStore } from '../../blockstore/index.ts'
import { blobNamed } from './tools.ts'

const [dir = '', round = ''] = process.argv.slice(2)
const LENGTH = 60_000

const store = await openBlockStore({ dir }).catch((error: unknown) => {
  process.send?.({ failed: isShoalError(error) ? error.code : String(error) })
  process.disconnect?.()
})
if (store) {
  await store.records<number>('round').put('begun', Number(round))
  const worker = async (id: number): Promise<void> => {
    for (let n = 0; ; n++) {
      const digest = blobNamed(`blob ${round} ${id} ${n}`)
      const length = n % 2 ? LENGTH : 50
      for (let i = 0; i < 6; i++) {
        const cid = await store.putSegment(digest, { offset: i * length }, randomBytes(length))
        process.send?.({ put: [`${digest} ${i * length}`, cid] })
      }
      await store.markComplete(digest)
      if (n % 3 === 2) {
        process.send?.({ drop: digest })
        await store.remove(digest)
      }
    }
  }
  await Promise.all([0, 1, 2, 3].map(worker))
}
