import type { Board } from './board.ts'

/** The blocks that this node fetches from upstream itself, and whether they still come. */
export interface Ranges {
  set(next: readonly { start: number; count: number }[]): void
  /** A block came, from wherever. */
  moved(index: number): void
  /** A block is known of that was not before; or, without an index, the blob's size is. */
  grown(index?: number): void
  /** Gives ranges without a new block for long back to the peers, and takes them back when they move again. */
  watch(now: number): void
  /** When `watch` should run again; Infinity if never. */
  dueAt(now: number): number
}

interface Range {
  start: number
  count: number
  /** Undefined: at the next `watch`, which knows the time. */
  movedAt: number | undefined
  late: boolean
}

export function createRanges(board: Board, lateMs: number): Ranges {
  let ranges: Range[] = []

  function covers(range: Range, index: number): boolean {
    return index >= range.start && index < range.start + range.count
  }

  function mark(range: Range, seeding: boolean): void {
    const stop = Math.min(range.start + range.count, board.end)
    for (let index = range.start; index < stop; index++) board.setSeeding(index, seeding)
  }

  return {
    set(next) {
      const old = ranges
      ranges = next.map(({ start, count }) => {
        const same = old.find((range) => range.start === start && range.count === count)
        return same ?? { start, count, movedAt: undefined, late: false }
      })
      for (const range of old) if (!range.late && !ranges.includes(range)) mark(range, false)
      for (const range of ranges) if (!range.late) mark(range, true)
    },
    moved(index) {
      for (const range of ranges) if (covers(range, index)) range.movedAt = undefined
    },
    grown(index) {
      for (const range of ranges) {
        if (range.late) continue
        if (index === undefined) mark(range, true)
        else if (covers(range, index)) board.setSeeding(index, true)
      }
    },
    watch(now) {
      for (const range of ranges) {
        range.movedAt ??= now
        const late = now - range.movedAt >= lateMs
        if (late === range.late) continue
        range.late = late
        mark(range, !late)
      }
    },
    dueAt(now) {
      let at = Number.POSITIVE_INFINITY
      for (const range of ranges) if (!range.late) at = Math.min(at, (range.movedAt ?? now) + lateMs)
      return at
    },
  }
}
