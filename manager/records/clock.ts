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
}

/** @param now ms since the epoch; may jump, the clock never goes back */
export function createClock({ node, now }: { node: PeerId; now: () => number }): Clock {
  let ms = 0
  let count = 0
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
    credible: (stamp) => stamp.ms <= now() + MAX_AHEAD_MS,
    see(stamp) {
      if (stamp.ms > ms) {
        ms = stamp.ms
        count = stamp.count
      } else if (stamp.ms === ms) count = Math.max(count, stamp.count)
    },
  }
}

/** Negative when `a` is the earlier one. */
export function compareStamps(a: Stamp, b: Stamp): number {
  return a.ms - b.ms || a.count - b.count || (a.node < b.node ? -1 : a.node > b.node ? 1 : 0)
}
