import type { PeerId } from '../types.ts'

/** When the last byte came from each peer: a sign of life that costs nothing, and is not late behind bulk data. */
export interface Activity {
  /** For the node's `track`. */
  track(peer: PeerId): () => void
  /** ms by `now`; -Infinity for never. */
  heardAt(peer: PeerId): number
  forget(peer: PeerId): void
}

export function createActivity(now: () => number = () => performance.now()): Activity {
  const peers = new Map<PeerId, { at: number }>()
  return {
    track(peer) {
      const entry = peers.get(peer) ?? { at: Number.NEGATIVE_INFINITY }
      peers.set(peer, entry)
      return () => {
        entry.at = now()
      }
    },
    heardAt: (peer) => peers.get(peer)?.at ?? Number.NEGATIVE_INFINITY,
    forget: (peer) => void peers.delete(peer),
  }
}
