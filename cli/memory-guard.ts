import { getHeapStatistics } from 'node:v8'

/** Between two looks while nothing happens, and while buffers come fast: in a pull some 4 MiB pass in the shorter one. */
const EVERY_MS = 500
const BUSY_MS = 100
/** Buffers come fast where so much has changed since the last look. */
const MOVING = 2 ** 20
/** Growth of buffers since the last collection that is worth another: of young objects, and since the last one of all, of all. */
const YOUNG_GROWTH = 4 * 2 ** 20
const GROWTH = 10 * 2 ** 20
/** Nothing is done below this, and nothing that takes long below the other: the buffers of a pull under way take as much. */
const YOUNG_FLOOR = 16 * 2 ** 20
const FLOOR = 24 * 2 ** 20

export interface MemoryGuard {
  /** Looks once. */
  check(): void
  stop(): void
}

/**
 * Collects garbage when buffers gather outside of V8's heap. V8 frees a buffer with its handle, and handles are so small that
 * it lets tens of MiB of network buffers lie before it looks: more than a daemon that has 150 MiB can spare.
 *
 * Most of them are young, and a collection of young objects takes a millisecond or two; one of all takes tens. So all are looked
 * at only where the young ones were not it.
 *
 * @param collect V8's `gc`; absent without `--expose-gc`, then nothing is done
 */
export function startMemoryGuard(deps: {
  collect: ((options: { type: 'minor' | 'major' }) => void) | undefined
  /** Bytes outside of the heap that the heap refers to. */
  outside?: () => number
}): MemoryGuard {
  const { collect, outside = () => getHeapStatistics().external_memory } = deps
  let left = 0
  let leftByAll = 0

  /** How much there was. */
  function look(): number {
    const before = outside()
    left = Math.min(left, before)
    leftByAll = Math.min(leftByAll, before)
    if (!collect || before < Math.max(YOUNG_FLOOR, left + YOUNG_GROWTH)) return before
    // What the first one frees is counted at the second.
    collect({ type: 'minor' })
    collect({ type: 'minor' })
    left = outside()
    if (left < Math.max(FLOOR, leftByAll + GROWTH)) return before
    collect({ type: 'major' })
    left = leftByAll = outside()
    return before
  }

  let seen = 0
  function watch(): void {
    const now = look()
    const isBusy = Math.abs(now - seen) > MOVING
    seen = now
    timer = later(isBusy ? BUSY_MS : EVERY_MS)
  }
  const later = (ms: number): NodeJS.Timeout => setTimeout(watch, ms).unref()
  let timer = later(EVERY_MS)
  return { check: () => void look(), stop: () => clearTimeout(timer) }
}
