import { type Digest, isShoalError } from '../base/index.ts'
import { keptAmong } from './kept.ts'
import { afterAll, blockKey, decodeBlock, decodeSegment, isBorrowed, segmentsOf } from './keys.ts'
import type { StoreState } from './state.ts'
import { BLOCK_SIZE, type BlockStore } from './types.ts'

/**
 * Gives the borrowed blocks of a blob files of their own, so that they do not go when somebody else's file does. With `kept`, only those
 * that are kept; and none where the file is gone, as nothing is to be had there.
 */
export function createRedeem({
  state,
  put,
  read,
}: {
  state: StoreState
  put: BlockStore['putSegment']
  read: BlockStore['read']
}): (digest: Digest, options: { kept?: boolean; signal: AbortSignal }) => Promise<void> {
  const { index, blobs, places } = state

  return async (digest, { kept = false, signal }) => {
    const entry = blobs.get(digest)
    if (entry?.borrowedFrom === undefined || (kept && entry.marks === 0)) return
    const prefix = segmentsOf(digest)
    const segments = (await index.entries({ from: prefix, to: afterAll(prefix) })).map(([key, text]) =>
      decodeSegment(Number(key.slice(prefix.length)), text),
    )
    const isKept = await keptAmong(
      state,
      segments.map(({ offset }) => ({ digest, offset })),
    )
    const into = Buffer.allocUnsafe(BLOCK_SIZE)
    for (const { cid, offset } of segments) {
      if (kept && !isKept(digest, offset)) continue
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      if (!isBorrowed(block) || (kept && places.stamp(cid, block) === undefined)) continue
      try {
        await put(digest, { offset }, await read(cid, { into, signal }), signal)
      } catch (error) {
        // Lost just now, and whoever cares has been told.
        if (!isShoalError(error, 'BLOCK_MISSING') && !isShoalError(error, 'BLOCK_CORRUPT')) throw error
      }
    }
  }
}
