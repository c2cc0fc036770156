import { createAsking } from './asking.ts'
import { createBoard } from './board.ts'
import { createFlights } from './flights.ts'
import { createLate } from './late.ts'
import { DEFAULT_LIMITS, type PlannerLimits } from './limits.ts'
import { createRanges } from './ranges.ts'
import { createSources, FULL, IDLE, type Source } from './sources.ts'
import type { Action, PeerBook, Planner, Priority } from './types.ts'

/** How long until another look when nothing of this task's own would bring one. */
const POLL_MS = 50
/** How often peers that had no room are looked at again, since other tasks may have left some. */
const SWEEP_MS = 25

/**
 * Chooses blocks and sources for one task. `random` gives numbers in [0, 1). Rarest first is that of B. Cohen, "Incentives
 * Build Robustness in BitTorrent", P2PEcon 2003, asked peer by peer: whoever can deliver soonest is asked for the rarest
 * block that it has, after the few blocks that readers need next.
 */
export function createPlanner(options: {
  blockSize: number
  book: PeerBook
  /** Asked anew each time: a client may join a task that began as preheating. */
  priority: () => Priority
  random: () => number
  limits?: Partial<PlannerLimits>
}): Planner {
  const { blockSize, book, priority, random } = options
  const limits = { ...DEFAULT_LIMITS.planner, ...options.limits }
  const board = createBoard((index) => sources.freed(index))
  const sources = createSources(() => board)
  const flights = createFlights(board.setAsked)
  const ranges = createRanges(board, limits.seedLateMs)
  const readers = new Map<number, number>()
  let bytesTotal: number | undefined
  let windowBlocks: number | undefined
  let cancels: Action[] = []
  /** Blocks that came by another way than the answer to an `ask` which is still under way. */
  let doubled: number[] = []
  /** Sources with room and something to give, in the present turn. */
  const able: Source[] = []
  let sweptAt = Number.NEGATIVE_INFINITY
  let lookedAt = Number.NEGATIVE_INFINITY
  let backSeen = Number.POSITIVE_INFINITY
  /** The latest time that was told. */
  let clock = 0

  const asking = createAsking({
    blockSize,
    total: () => bytesTotal,
    book,
    priority,
    sources,
    flights,
    onAsk: (flight) => late.consider(flight),
  })
  const late = createLate({
    limits,
    blockSize,
    board,
    sources,
    flights,
    asking: () => asking,
    isNext: (index) => {
      for (const at of readers.values()) if (at === index) return true
      return false
    },
    onFailure: lookAgain,
  })

  function lookAgain(): void {
    lookedAt = Number.NEGATIVE_INFINITY
  }

  function findAble(now: number): void {
    able.length = 0
    const last = board.end - 1
    const least = bytesTotal !== undefined && board.isFree(last) ? asking.bytesOf(last) : blockSize
    // What a peer that nobody knows would be given is what all tasks together leave over.
    if (book.room('', priority(), now) < least) return
    const { list, skip } = sources
    const anew = now - sweptAt >= SWEEP_MS
    if (anew) sweptAt = now
    for (let slot = 0; slot < list.length; slot++) {
      if (skip[slot] !== 0 && !(anew && skip[slot] === FULL)) continue
      const source = list[slot]!
      asking.measure(source, now)
      if (source.room >= least) {
        skip[slot] = 0
        able.push(source)
      } else skip[slot] = FULL
    }
  }

  function askAhead(blocks: number, now: number, actions: Action[]): void {
    for (const next of readers.values()) {
      const stop = Math.min(board.end, next + blocks)
      for (let index = next; index < stop; index++) {
        if (!board.isFree(index)) continue
        const best = asking.best(able, index)
        if (best !== undefined) asking.ask(best, index, false, now, actions)
      }
    }
  }

  function askRarest(now: number, actions: Action[]): void {
    while (able.length > 0 && board.free > 0) {
      let at = 0
      for (let i = 1; i < able.length; i++) if (able[i]!.expectMs < able[at]!.expectMs) at = i
      const best = able[at]!
      const index = best.room > 0 ? board.rarest(best.words, random) : -1
      if (index >= 0 && asking.ask(best, index, false, now, actions)) continue
      if (best.room > 0 && index < 0) sources.skip[best.slot] = IDLE
      able[at] = able[able.length - 1]!
      able.pop()
    }
  }

  /** All that is missing is in flight, and it is little. */
  function ending(): boolean {
    if (bytesTotal === undefined || board.free > 0 || flights.size === 0) return false
    const missing = board.end - board.here
    return missing <= limits.endgame && flights.size >= missing
  }

  /** When the first of the shunned peers may be asked again. Looked up now and then only: it matters little. */
  function backAt(now: number): number {
    if (now - lookedAt < POLL_MS && backSeen > now) return backSeen
    lookedAt = now
    backSeen = Number.POSITIVE_INFINITY
    for (const { id } of sources.list) {
      if (book.shunned(id, now)) backSeen = Math.min(backSeen, book.describe(id).shunnedUntil)
    }
    return backSeen
  }

  return {
    size(bytes) {
      if (bytesTotal === bytes) return
      bytesTotal = bytes
      board.setEnd(Math.ceil(bytes / blockSize))
      ranges.grown()
    },

    got(index) {
      board.setHas(index, true)
      ranges.moved(index)
      // What was asked may have brought it, and be reported after this: `next` cancels what is left by then.
      if (flights.of(index).length > 0) doubled.push(index)
    },
    lost: (index) => board.setHas(index, false),
    known(index) {
      board.setKnown(index, true)
      ranges.grown(index)
    },
    forgetCut(index) {
      board.setKnown(index, false)
      asking.cancelAll(index, clock, cancels)
    },

    peer: sources.snapshot,
    peerHas: sources.add,
    dropPeer(id) {
      sources.drop(id)
      for (const flight of flights.all()) if (flight.peer === id) asking.cancel(flight, clock, cancels)
    },

    seeding: ranges.set,
    reader(id, next) {
      if (next === undefined) {
        readers.delete(id)
        return
      }
      readers.set(id, next)
      for (const flight of flights.of(next)) late.consider(flight)
    },
    window(blocks) {
      windowBlocks = blocks
    },

    progress(index, peer, bytes, now) {
      const flight = flights.find(index, peer)
      if (flight === undefined || bytes <= 0) return
      flight.movedAt = now
      flight.received += bytes
    },
    arrived(index, peer, now) {
      clock = now
      const flight = flights.find(index, peer)
      if (flight !== undefined) asking.arrived(flight, now)
      board.setHas(index, true)
      ranges.moved(index)
      const actions: Action[] = []
      asking.cancelAll(index, now, actions)
      return actions
    },
    failed(index, peer, reason, now) {
      clock = now
      if (reason === 'missing' || reason === 'corrupt') sources.deny(peer, index)
      const flight = flights.find(index, peer)
      if (flight === undefined) return
      asking.failed(flight, reason, now)
      lookAgain()
    },

    next(now) {
      clock = now
      const actions = cancels
      cancels = []
      if (doubled.length > 0) {
        for (const index of doubled) if (board.has(index)) asking.cancelAll(index, now, actions)
        doubled = []
      }
      ranges.watch(now)
      late.hedge(now, actions)
      if (board.free > 0) {
        findAble(now)
        if (able.length > 0) {
          askAhead(windowBlocks ?? limits.ahead, now, actions)
          if (windowBlocks === undefined) askRarest(now, actions)
        }
      }
      if (ending()) late.askLast(now, actions)
      return actions
    },

    wakeAt(now) {
      let at = Math.min(late.at, ranges.dueAt(now))
      if (board.free > 0 && sources.list.length > 0) {
        at = Math.min(at, backAt(now))
        // Others may hold all the room, and tell nobody when they leave it.
        if (flights.size === 0) at = Math.min(at, now + POLL_MS)
      }
      if (ending()) at = Math.min(at, now + POLL_MS)
      return at === Number.POSITIVE_INFINITY ? undefined : Math.max(at, now + 1)
    },
  }
}
