/** Keeps, trims, evicts and scrubs until it is killed: `crash-keep-child.ts DIR ROUND`; tells its parent what it was told is done. */
import { randomBytes } from 'node:crypto'
import { openBlockStore } from '../../blockstore/index.ts'
import { blobNamed, marksOf, SHARE } from './tools.ts'

const [dir = '', round = ''] = process.argv.slice(2)
/** Blobs that a worker keeps something of at a time. */
const KEPT = 6

const store = await openBlockStore({ dir, quota: 2_000_000 })
const worker = async (id: number): Promise<void> => {
  const name = (n: number): string => `share ${round} ${id} ${n}`
  const keep = async (n: number, version: number): Promise<void> => {
    await store.keep(blobNamed(name(n)), marksOf(version))
    process.send?.({ kept: [name(n), version] })
  }
  for (let n = 0; ; n++) {
    const digest = blobNamed(name(n))
    // Marked before the blocks come, or after.
    if (n % 2) await keep(n, 1)
    for (let i = 0; i < SHARE.blocks; i++) {
      const offset = i * SHARE.length
      const cid = await store.putSegment(digest, { offset }, randomBytes(SHARE.length))
      process.send?.({ put: [name(n), offset, cid] })
    }
    if (n % 2 === 0) await keep(n, 1)
    await store.trim(digest)
    await keep(n, 2)
    await store.trim(digest)
    if (n >= KEPT) await keep(n - KEPT, 3)
  }
}
const scrubs = async (): Promise<void> => {
  for (;;) {
    const signal = new AbortController().signal
    const { bad } = await store.scrub({ bytesPerSecond: 20_000_000, signal })
    if (bad > 0) process.send?.({ bad })
    await store.collect(undefined, { all: true })
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
await Promise.all([worker(0), worker(1), scrubs()])
