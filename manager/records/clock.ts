import type { PeerId } from '../types.ts'
import type { Stamp } from './types.ts'

/** A stamp further ahead of this node's time than this comes from a broken clock. */
const MAX_AHEAD_MS = 10 * 60_000
/** Far more writes than a millisecond can have; keeps counts exact, whatever a peer sends. */
export const MAX_COUNT = 2 ** 32

/** A hybrid logical clock, see Stamp. */
export interface Clock {
  /** A stamp above all that were given or seen. */
  next(): Stamp
  /** False for a stamp so far ahead that it would beat all honest writes for a long time: not to be seen. */
  credible(stamp: Stamp): boolean
  see(stamp: Stamp): void
  /** What was given or seen is not credible any more: this machine's time was wrong and was set right. */
  astray(): boolean
  /** Forgets what was seen, so that the next stamps are credible again. */
  reset(): void
}

/** @param now ms since the epoch; may jump, the clock never goes back */
export function createClock({ node, now }: { node: PeerId; now: () => number }): Clock {
  let ms = 0
  let count = 0
  const credible = (stamp: { ms: number }): boolean => stamp.ms <= now() + MAX_AHEAD_MS
  return {
    next() {
      const time = Math.floor(now())
      if (time > ms) {
        ms = time
        count = 0
      } else if (++count > MAX_COUNT) {
        ms++
        count = 0
      }
      return { ms, count, node }
    },
    credible,
    see(stamp) {
      if (stamp.ms > ms) {
        ms = stamp.ms
        count = stamp.count
      } else if (stamp.ms === ms) count = Math.max(count, stamp.count)
    },
    astray: () => !credible({ ms }),
    reset() {
      ms = 0
      count = 0
    },
  }
}

/** Negative when `a` is the earlier one. */
export function compareStamps(a: Stamp, b: Stamp): number {
  return a.ms - b.ms || a.count - b.count || (a.node < b.node ? -1 : a.node > b.node ? 1 : 0)
}
