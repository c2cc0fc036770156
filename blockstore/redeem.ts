import { type Digest, isShoalError } from '../base/index.ts'
import { afterAll, blockKey, decodeBlock, decodeSegment, isBorrowed, segmentsOf } from './keys.ts'
import type { StoreState } from './state.ts'
import { BLOCK_SIZE, type BlockStore } from './types.ts'

export type Redeem = (
  digest: Digest,
  options: { offsets?: ReadonlySet<number>; signal: AbortSignal },
) => Promise<void>

/**
 * Gives the borrowed blocks of a blob, or those at some offsets of it, files of their own, so that they do not go when somebody else's
 * file does.
 */
export function createRedeem({
  state,
  put,
  read,
}: {
  state: StoreState
  put: BlockStore['putSegment']
  read: BlockStore['read']
}): Redeem {
  const { index, blobs, totals } = state

  return async (digest, { offsets, signal }) => {
    if (totals.borrowed === 0) return
    const prefix = segmentsOf(digest)
    const segments = (await index.entries({ from: prefix, to: afterAll(prefix) })).map(([key, text]) =>
      decodeSegment(Number(key.slice(prefix.length)), text),
    )
    let into: Buffer | undefined
    for (const { cid, offset } of segments) {
      if (offsets && !offsets.has(offset)) continue
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      if (!isBorrowed(block)) continue
      const entry = blobs.get(digest)
      if (entry) entry.mayMove = true
      into ??= Buffer.allocUnsafe(BLOCK_SIZE)
      try {
        await put(digest, { offset }, await read(cid, { into, signal }), signal)
      } catch (error) {
        // Lost just now, and whoever cares has been told.
        if (!isShoalError(error, 'BLOCK_MISSING') && !isShoalError(error, 'BLOCK_CORRUPT')) throw error
      }
    }
  }
}
