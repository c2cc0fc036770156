import type { Digest } from '../base/index.ts'
import { afterAll, blockKey, decodeBlock, decodeSegment, isBorrowed, segmentsOf } from './keys.ts'
import type { StoreState } from './state.ts'
import { BLOCK_SIZE, type BlockStore } from './types.ts'

/** Gives the borrowed blocks of a blob files of their own, so that it does not go when somebody else's file does. */
export function createRedeem({
  state,
  put,
  read,
  giveBack,
}: {
  state: StoreState
  put: BlockStore['putSegment']
  read: BlockStore['read']
  giveBack: BlockStore['giveBack']
}): (digest: Digest, signal: AbortSignal) => Promise<void> {
  const { index, blobs } = state

  return async (digest, signal) => {
    if (blobs.get(digest)?.borrowedFrom === undefined) return
    const prefix = segmentsOf(digest)
    const into = Buffer.allocUnsafe(BLOCK_SIZE)
    for (const [key, text] of await index.entries({ from: prefix, to: afterAll(prefix) })) {
      const offset = Number(key.slice(prefix.length))
      const { cid } = decodeSegment(offset, text)
      const value = await index.get(blockKey(cid))
      if (value === undefined || !isBorrowed(decodeBlock(value))) continue
      await put(digest, { offset }, await read(cid, { into, signal }), signal)
    }
    await giveBack(digest)
  }
}
