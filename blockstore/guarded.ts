import type { Digest } from '../base/index.ts'
import { keptAmong } from './kept.ts'
import { blockKey, decodeBlock, decodeSegment, isBorrowed, segmentsOf } from './keys.ts'
import { PAGE, pages } from './pages.ts'
import { type Place, placesNeeding } from './places.ts'
import type { StoreState } from './state.ts'
import type { Cid } from './types.ts'

/**
 * Which of the blocks must not hang on a file of somebody else: a place that needs them is kept, or is of a blob that is pinned, or
 * that is held, as what was acknowledged a moment ago may have no other copy yet.
 */
export async function guardedAmong(
  state: Pick<StoreState, 'index' | 'blobs'>,
  cids: readonly Cid[],
): Promise<Set<Cid>> {
  const { index, blobs } = state
  const needing: (Place & { cid: Cid })[] = []
  for (const cid of new Set(cids)) {
    for (const place of await placesNeeding(index, cid)) needing.push({ ...place, cid })
  }
  const isKept = await keptAmong(state, needing)
  const isGuarded = ({ digest, offset }: Place): boolean =>
    isKept(digest, offset) || blobs.held(digest) || blobs.get(digest)?.pinned === true
  return new Set(needing.filter(isGuarded).map(({ cid }) => cid))
}

/** True when the blob has own files that could lie in a borrowed file: it was killed, or marks went, since it was borrowed. */
export async function hasOwnToMove(
  state: Pick<StoreState, 'index' | 'blobs'>,
  digest: Digest,
): Promise<boolean> {
  let own: Cid[] = []
  const anyMoves = async (): Promise<boolean> => {
    const guarded = await guardedAmong(state, own)
    return own.some((cid) => !guarded.has(cid))
  }
  for await (const [, text] of pages(state.index, segmentsOf(digest))) {
    const { cid } = decodeSegment(0, text)
    const value = await state.index.get(blockKey(cid))
    if (value !== undefined && !isBorrowed(decodeBlock(value))) own.push(cid)
    if (own.length < PAGE) continue
    if (await anyMoves()) return true
    own = []
  }
  return anyMoves()
}
