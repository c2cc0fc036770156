import type { Asking } from './asking.ts'
import type { Board } from './board.ts'
import type { Flight, Flights } from './flights.ts'
import type { PlannerLimits } from './limits.ts'
import type { Sources } from './sources.ts'
import type { Action } from './types.ts'

/** Blocks that may be asked of a second peer at a time where the first sent nothing. */
const SILENT_HEDGES = 8

/**
 * What to do about blocks that are late: ask a second holder, as in J. Dean and L. Barroso, "The Tail at Scale", CACM 56(2),
 * 2013; give up the first; ask several for the last ones. Bounded, so that a crowded network is not crowded more.
 */
export interface Late {
  /** No flight is late before this; Infinity if none will be. */
  readonly at: number
  /** A flight began, or may be due sooner than it was. */
  consider(flight: Flight): void
  hedge(now: number, actions: Action[]): void
  /** For when all that is missing is in flight, and is little. */
  askLast(now: number, actions: Action[]): void
}

export function createLate(deps: {
  limits: PlannerLimits
  blockSize: number
  board: Board
  sources: Sources
  flights: Flights
  asking: () => Asking
  /** True if a reader waits for the block. */
  isNext: (index: number) => boolean
  onFailure: () => void
}): Late {
  const { limits, blockSize, board, sources, flights, asking } = deps
  let lateAt = Number.POSITIVE_INFINITY

  /** When a flight is so late, and without news, that another holder is asked. */
  function dueAt(flight: Flight): number {
    const patience = deps.isNext(flight.index)
      ? Math.min(Math.max(2 * flight.expectedMs, limits.readerLateMs), limits.readerMaxMs)
      : Math.max(3 * flight.expectedMs, limits.lateMs)
    const quiet = Math.max(flight.startedAt + patience, flight.movedAt + limits.quietMs)
    // One that trickles is given up at last, too.
    return Math.max(flight.notBefore, Math.min(quiet, flight.startedAt + limits.slow * patience))
  }

  /** True if the block may be asked of one more peer, which may turn out to be for nothing. */
  function mayDouble(first: Flight, now: number): boolean {
    if (asking().mayWaste()) return true
    // What a peer is overdue with, and sent nothing of, it will hardly have sent for nothing.
    const overdue = now - first.startedAt >= Math.max(2 * first.expectedMs, limits.readerLateMs)
    return overdue && first.movedAt === first.startedAt && asking().hedged() < SILENT_HEDGES * blockSize
  }

  /** Ends what has brought nothing for so long that the peer must be taken for dead, if others have the block. */
  function giveUp(flight: Flight, now: number, actions: Action[]): void {
    if (now < flight.movedAt + limits.giveUpMs || board.holders(flight.index) < 2) return
    asking().failed(flight, 'timeout', now)
    deps.onFailure()
    actions.push({ type: 'cancel', index: flight.index, peer: flight.peer })
  }

  /** What is overdue takes half as long again as it took so far, for all that is known. */
  function remaining(flight: Flight, now: number): number {
    const elapsed = now - flight.startedAt
    return Math.max(flight.expectedMs - elapsed, elapsed / 2)
  }

  function measureAll(now: number): void {
    for (const source of sources.list) asking().measure(source, now)
  }

  return {
    get at() {
      return flights.size === 0 ? Number.POSITIVE_INFINITY : lateAt
    },
    consider(flight) {
      lateAt = Math.min(lateAt, dueAt(flight))
    },
    hedge(now, actions) {
      if (now < lateAt) return
      lateAt = Number.POSITIVE_INFINITY
      let measured = false
      for (const flight of flights.all()) giveUp(flight, now, actions)
      for (const flight of flights.all()) {
        if (flights.of(flight.index).length > 1) {
          lateAt = Math.min(lateAt, Math.max(flight.movedAt + limits.giveUpMs, now + 1))
          continue
        }
        if (now >= dueAt(flight)) {
          if (!measured) measureAll(now)
          measured = true
          const other = mayDouble(flight, now) ? asking().best(sources.list, flight.index) : undefined
          if (other !== undefined && asking().ask(other, flight.index, true, now, actions)) continue
          flight.notBefore = now + limits.quietMs
        }
        lateAt = Math.min(lateAt, dueAt(flight))
      }
    },
    askLast(now, actions) {
      measureAll(now)
      for (const first of flights.all()) {
        const copies = flights.of(first.index)
        if (copies[0] !== first || copies.length >= limits.copies) continue
        const left = Math.min(...copies.map((flight) => remaining(flight, now)))
        const other = asking().best(sources.list, first.index)
        if (other === undefined || left - other.expectMs < Math.max(other.expectMs, limits.gainMs)) continue
        if (mayDouble(first, now)) asking().ask(other, first.index, true, now, actions)
      }
    },
  }
}
