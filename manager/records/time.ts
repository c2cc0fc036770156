import type { PeerId } from '../types.ts'

/** Peers whose clocks are remembered; the oldest word goes first. */
const MAX_PEERS = 32

/** What time it is in the cluster. */
export interface ClusterTime {
  /** ms since the epoch. */
  now(): number
  /** A peer said what time it is with it. */
  heard(peer: PeerId, ms: number): void
}

/**
 * The median of this node's clock and those of its peers: a machine that was switched off for long and has no clock of its own, or one whose
 * clock is broken, keeps the others' time. Of two that differ each keeps its own.
 */
export function createClusterTime(now: () => number): ClusterTime {
  const offsets = new Map<PeerId, number>()
  return {
    now() {
      const all = [0, ...offsets.values()].sort((a, b) => a - b)
      const middle = (all.length - 1) / 2
      const [low, high] = [all[Math.floor(middle)]!, all[Math.ceil(middle)]!]
      // Nearer to this node's own where there are two in the middle.
      return now() + (Math.abs(low) <= Math.abs(high) ? low : high)
    },
    heard(peer, ms) {
      offsets.delete(peer)
      offsets.set(peer, ms - now())
      const [oldest] = offsets.keys()
      if (offsets.size > MAX_PEERS && oldest !== undefined) offsets.delete(oldest)
    },
  }
}
