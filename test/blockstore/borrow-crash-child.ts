/** Borrows, keeps and gives back until it is killed: `borrow-crash-child.ts STORE FILE…`; tells its parent what is whole and what may not be. */
import { readFile } from 'node:fs/promises'
import { digestOf } from '../../base/index.ts'
import { BLOCK_SIZE, openBlockStore } from '../../blockstore/index.ts'

const [dir = '', ...paths] = process.argv.slice(2)
const store = await openBlockStore({ dir })
const sign = () => ({ seeder: 'child', signature: Buffer.from('signed') })
const { signal } = new AbortController()

async function worker(path: string): Promise<void> {
  const bytes = await readFile(path)
  const digest = digestOf(bytes)
  for (;;) {
    for (let offset = 0; offset < bytes.length; offset += BLOCK_SIZE) {
      await store.putSegment(digest, { offset, sign }, bytes.subarray(offset, offset + BLOCK_SIZE))
    }
    await store.describe(digest, { size: bytes.length })
    await store.markComplete(digest)
    process.send?.({ whole: digest })
    await store.keep(digest, Math.random() < 0.5 ? [BLOCK_SIZE, 5 * BLOCK_SIZE] : [])
    if (!(await store.borrow(digest, path, { sign, signal }))) throw new Error('not borrowed')
    process.send?.({ leaving: digest })
    await store.keep(digest, [0])
    if (Math.random() < 0.5) await store.giveBack(digest)
    else await store.remove(digest)
    if (!(await store.borrow(digest, path, { sign, signal }))) throw new Error('not borrowed')
    process.send?.({ whole: digest })
    process.send?.({ leaving: digest })
    await store.remove(digest)
  }
}
await Promise.all(paths.map(worker))
