import { createBoard } from './board.ts'
import { createFlights, type Flight } from './flights.ts'
import { DEFAULT_LIMITS, type PlannerLimits } from './limits.ts'
import { createRanges } from './ranges.ts'
import { createSources, FULL, IDLE, offers, type Source } from './sources.ts'
import type { Action, PeerBook, PeerId, Planner, Priority } from './types.ts'

/** How long until another look when nothing of this task's own would bring one. */
const POLL_MS = 50
/** How often peers that had no room are looked at again, since other tasks may have left some. */
const SWEEP_MS = 25
/** Share of what came whole that may come twice, and the blocks that may in any case. */
const WASTE = 0.02
const FREE_WASTE = 2
/** Blocks that may be asked of a second peer at a time where the first sent nothing. */
const SILENT_HEDGES = 8

/**
 * Chooses blocks and sources for one task. `random` gives numbers in [0, 1). Rarest first is that of B. Cohen, "Incentives
 * Build Robustness in BitTorrent", P2PEcon 2003, asked peer by peer: whoever can deliver soonest is asked for the rarest
 * block that it has, after the few blocks that readers need next.
 */
export function createPlanner(options: {
  blockSize: number
  book: PeerBook
  priority: Priority
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
  /** No flight is late before this. */
  let lateAt = Number.POSITIVE_INFINITY
  let sweptAt = Number.NEGATIVE_INFINITY
  let lookedAt = Number.NEGATIVE_INFINITY
  let backSeen = Number.POSITIVE_INFINITY
  /** The latest time that was told. */
  let clock = 0
  let arrivedBytes = 0
  let wastedBytes = 0

  function bytesOf(index: number): number {
    if (bytesTotal === undefined) return blockSize
    return Math.max(1, Math.min(blockSize, bytesTotal - index * blockSize))
  }

  function ask(index: number, peer: PeerId, hedge: boolean, now: number, actions: Action[]): void {
    const bytes = bytesOf(index)
    const expectedMs = book.expectMs(peer, bytes)
    book.asked(peer, bytes, now)
    const flight = { index, peer, bytes, startedAt: now, expectedMs, hedge, movedAt: now, notBefore: 0 }
    flights.add(flight)
    lateAt = Math.min(lateAt, dueAt(flight))
    actions.push({ type: 'ask', index, peer, bytes, hedge })
  }

  function remove(flight: Flight): void {
    flights.remove(flight)
    const source = sources.get(flight.peer)
    if (source !== undefined) sources.skip[source.slot]! &= ~FULL
  }

  function cancel(flight: Flight, actions: Action[]): void {
    remove(flight)
    book.released(flight.peer, flight.bytes)
    // What is overdue without a byte was most likely never sent.
    const silent = flight.movedAt === flight.startedAt && clock - flight.startedAt > 2 * flight.expectedMs
    if (!silent) wastedBytes += flight.bytes
    actions.push({ type: 'cancel', index: flight.index, peer: flight.peer })
  }

  function cancelAll(index: number, actions: Action[]): void {
    for (const flight of [...flights.of(index)]) cancel(flight, actions)
  }

  /** Who would bring the block soonest, among those in `from` that have room and are not asked for it already. */
  function bestOf(from: readonly Source[], index: number): Source | undefined {
    const bytes = bytesOf(index)
    const asked = flights.of(index)
    let best: Source | undefined
    for (const source of from) {
      if (source.room < bytes || !offers(source, index)) continue
      if (best !== undefined && source.expectMs >= best.expectMs) continue
      if (!asked.some((flight) => flight.peer === source.id)) best = source
    }
    return best
  }

  function measure(source: Source, now: number): void {
    source.room = book.room(source.id, priority, now)
    if (source.room > 0) source.expectMs = book.expectMs(source.id, blockSize)
  }

  /** False if the source has no room after all: what others were asked for since it was measured may have taken it. */
  function askSource(source: Source, index: number, hedge: boolean, now: number, actions: Action[]): boolean {
    measure(source, now)
    if (source.room < bytesOf(index)) return false
    ask(index, source.id, hedge, now, actions)
    measure(source, now)
    return true
  }

  function isNext(index: number): boolean {
    for (const at of readers.values()) if (at === index) return true
    return false
  }

  /** When a flight is so late, and without news, that another holder is asked. */
  function dueAt(flight: Flight): number {
    const waited = isNext(flight.index)
    const patience = waited
      ? Math.max(2 * flight.expectedMs, limits.readerLateMs)
      : Math.max(3 * flight.expectedMs, limits.lateMs)
    const quiet = Math.max(flight.startedAt + patience, flight.movedAt + limits.quietMs)
    // One that trickles is given up at last, too.
    return Math.max(flight.notBefore, Math.min(quiet, flight.startedAt + limits.slow * patience))
  }

  /** True if the block may be asked of one more peer, which may turn out to be for nothing. */
  function mayDouble(first: Flight, now: number): boolean {
    const hedged = flights.all().reduce((sum, flight) => sum + (flight.hedge ? flight.bytes : 0), 0)
    if (wastedBytes + hedged <= WASTE * arrivedBytes + FREE_WASTE * blockSize) return true
    // What a peer is overdue with, and sent nothing of, it will hardly have sent for nothing.
    const overdue = now - first.startedAt >= Math.max(2 * first.expectedMs, limits.readerLateMs)
    return overdue && first.movedAt === first.startedAt && hedged < SILENT_HEDGES * blockSize
  }

  /** Ends what has brought nothing for so long that the peer must be taken for dead, if others have the block. */
  function giveUp(flight: Flight, now: number, actions: Action[]): void {
    if (now < flight.movedAt + limits.giveUpMs || board.holders(flight.index) < 2) return
    remove(flight)
    book.failed(flight.peer, flight.bytes, 'timeout', now)
    lookedAt = Number.NEGATIVE_INFINITY
    actions.push({ type: 'cancel', index: flight.index, peer: flight.peer })
  }

  function hedge(now: number, actions: Action[]): void {
    if (now < lateAt) return
    lateAt = Number.POSITIVE_INFINITY
    let measured = false
    for (const flight of flights.all()) giveUp(flight, now, actions)
    for (const flight of flights.all()) {
      const copies = flights.of(flight.index)
      if (copies.length > 1) {
        lateAt = Math.min(lateAt, flight.movedAt + limits.giveUpMs)
        continue
      }
      if (now >= dueAt(flight)) {
        if (!measured) for (const source of sources.list) measure(source, now)
        measured = true
        const other = mayDouble(flight, now) ? bestOf(sources.list, flight.index) : undefined
        if (other !== undefined && askSource(other, flight.index, true, now, actions)) continue
        flight.notBefore = now + limits.quietMs
      }
      lateAt = Math.min(lateAt, dueAt(flight))
    }
  }

  function findAble(now: number): void {
    able.length = 0
    const last = board.end - 1
    const least = bytesTotal !== undefined && board.isFree(last) ? bytesOf(last) : blockSize
    // What a peer that nobody knows would be given is what all tasks together leave over.
    if (book.room('', priority, now) < least) return
    const { list, skip } = sources
    const anew = now - sweptAt >= SWEEP_MS
    if (anew) sweptAt = now
    for (let slot = 0; slot < list.length; slot++) {
      if (skip[slot] !== 0 && !(anew && skip[slot] === FULL)) continue
      const source = list[slot]!
      measure(source, now)
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
        const best = bestOf(able, index)
        if (best !== undefined) askSource(best, index, false, now, actions)
      }
    }
  }

  function askRarest(now: number, actions: Action[]): void {
    while (able.length > 0 && board.free > 0) {
      let at = 0
      for (let i = 1; i < able.length; i++) if (able[i]!.expectMs < able[at]!.expectMs) at = i
      const best = able[at]!
      const index = best.room > 0 ? board.rarest(best.words, random) : -1
      if (index >= 0 && askSource(best, index, false, now, actions)) continue
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

  /** What is overdue takes half as long again as it took so far, for all that is known. */
  function remaining(flight: Flight, now: number): number {
    const elapsed = now - flight.startedAt
    return Math.max(flight.expectedMs - elapsed, elapsed / 2)
  }

  function askLast(now: number, actions: Action[]): void {
    for (const source of sources.list) measure(source, now)
    for (const first of flights.all()) {
      const copies = flights.of(first.index)
      if (copies[0] !== first || copies.length >= limits.copies) continue
      const left = Math.min(...copies.map((flight) => remaining(flight, now)))
      const other = bestOf(sources.list, first.index)
      if (other === undefined || left - other.expectMs < Math.max(other.expectMs, limits.gainMs)) continue
      if (!mayDouble(first, now)) continue
      askSource(other, first.index, true, now, actions)
    }
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
      cancelAll(index, cancels)
    },

    peer: sources.snapshot,
    peerHas: sources.add,
    dropPeer(id) {
      sources.drop(id)
      for (const flight of flights.all()) if (flight.peer === id) cancel(flight, cancels)
    },

    seeding: ranges.set,
    reader(id, next) {
      if (next === undefined) {
        readers.delete(id)
        return
      }
      readers.set(id, next)
      for (const flight of flights.of(next)) lateAt = Math.min(lateAt, dueAt(flight))
    },
    window(blocks) {
      windowBlocks = blocks
    },

    progress(index, peer, bytes, now) {
      const flight = flights.find(index, peer)
      if (flight !== undefined && bytes > 0) flight.movedAt = now
    },
    arrived(index, peer, now) {
      clock = now
      const flight = flights.find(index, peer)
      if (flight !== undefined) {
        remove(flight)
        book.arrived(peer, flight.bytes, flight.startedAt, now)
        arrivedBytes += flight.bytes
      }
      board.setHas(index, true)
      ranges.moved(index)
      const actions: Action[] = []
      cancelAll(index, actions)
      return actions
    },
    failed(index, peer, reason, now) {
      if (reason === 'missing' || reason === 'corrupt') sources.deny(peer, index)
      const flight = flights.find(index, peer)
      if (flight === undefined) return
      remove(flight)
      book.failed(peer, flight.bytes, reason, now)
      lookedAt = Number.NEGATIVE_INFINITY
    },

    next(now) {
      clock = now
      const actions = cancels
      cancels = []
      if (doubled.length > 0) {
        for (const index of doubled) if (board.has(index)) cancelAll(index, actions)
        doubled = []
      }
      ranges.watch(now)
      hedge(now, actions)
      if (board.free > 0) {
        findAble(now)
        if (able.length > 0) {
          askAhead(windowBlocks ?? limits.ahead, now, actions)
          if (windowBlocks === undefined) askRarest(now, actions)
        }
      }
      if (ending()) askLast(now, actions)
      return actions
    },

    wakeAt(now) {
      let at = Math.min(flights.size > 0 ? lateAt : Number.POSITIVE_INFINITY, ranges.dueAt(now))
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
