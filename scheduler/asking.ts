import type { Flight, Flights } from './flights.ts'
import { FULL, offers, type Source, type Sources } from './sources.ts'
import type { Action, FetchFailure, PeerBook, Priority } from './types.ts'

/** Share of what came whole that may come twice, and the blocks that may in any case. */
const WASTE = 0.02
const FREE_WASTE = 2
/** What came of a block within this long tells how fast it comes. */
const SETTLED_MS = 250

/** The asking of one task: what is in flight, on the peer book's accounts and on its own. */
export interface Asking {
  bytesOf(index: number): number
  /** Sets the source's room and expectation. */
  measure(source: Source, now: number): void
  /** Who would bring the block soonest, among those in `from` that have room and are not asked for it already. */
  best(from: readonly Source[], index: number): Source | undefined
  /** False if the source has no room after all: what others were asked for since it was measured may have taken it. */
  ask(source: Source, index: number, hedge: boolean, now: number, actions: Action[]): boolean
  arrived(flight: Flight, now: number): void
  failed(flight: Flight, reason: FetchFailure, now: number): void
  cancel(flight: Flight, now: number, actions: Action[]): void
  cancelAll(index: number, now: number, actions: Action[]): void
  /** Bytes that are asked of a second or third peer now. */
  hedged(): number
  /** True while what came twice, and may yet, is little. */
  mayWaste(): boolean
}

export function createAsking(deps: {
  blockSize: number
  total: () => number | undefined
  book: PeerBook
  priority: () => Priority
  sources: Sources
  flights: Flights
  onAsk: (flight: Flight) => void
}): Asking {
  const { blockSize, book, priority, sources, flights } = deps
  let arrivedBytes = 0
  let wastedBytes = 0

  function bytesOf(index: number): number {
    const total = deps.total()
    if (total === undefined) return blockSize
    return Math.max(1, Math.min(blockSize, total - index * blockSize))
  }

  function measure(source: Source, now: number): void {
    source.room = book.room(source.id, priority(), now)
    if (source.room > 0) source.expectMs = book.expectMs(source.id, blockSize)
  }

  function remove(flight: Flight): void {
    flights.remove(flight)
    const source = sources.get(flight.peer)
    if (source !== undefined) sources.skip[source.slot]! &= ~FULL
  }

  function hedged(): number {
    return flights.all().reduce((sum, flight) => sum + (flight.hedge ? flight.bytes : 0), 0)
  }

  function cancel(flight: Flight, now: number, actions: Action[]): void {
    remove(flight)
    const { peer, bytes, received, startedAt } = flight
    const settled = now - startedAt > SETTLED_MS
    book.released(peer, bytes, settled ? { bytes: received, startedAt, now } : undefined)
    // After a while hardly more is on its way than came: a peer that trickles or is silent wastes little.
    wastedBytes += settled ? Math.min(bytes, 2 * received) : bytes
    actions.push({ type: 'cancel', index: flight.index, peer: flight.peer })
  }

  return {
    bytesOf,
    measure,
    best(from, index) {
      const bytes = bytesOf(index)
      const asked = flights.of(index)
      let best: Source | undefined
      for (const source of from) {
        if (source.room < bytes || !offers(source, index)) continue
        if (best !== undefined && source.expectMs >= best.expectMs) continue
        if (!asked.some((flight) => flight.peer === source.id)) best = source
      }
      return best
    },
    ask(source, index, hedge, now, actions) {
      const bytes = bytesOf(index)
      measure(source, now)
      if (source.room < bytes) return false
      const peer = source.id
      const expectedMs = book.expectMs(peer, bytes)
      book.asked(peer, bytes, now)
      const flight = {
        index,
        peer,
        bytes,
        startedAt: now,
        expectedMs,
        hedge,
        movedAt: now,
        received: 0,
        notBefore: 0,
      }
      flights.add(flight)
      deps.onAsk(flight)
      actions.push({ type: 'ask', index, peer, bytes, hedge })
      measure(source, now)
      return true
    },
    arrived(flight, now) {
      remove(flight)
      book.arrived(flight.peer, flight.bytes, flight.startedAt, now)
      arrivedBytes += flight.bytes
    },
    failed(flight, reason, now) {
      remove(flight)
      book.failed(flight.peer, flight.bytes, reason, now)
    },
    cancel,
    cancelAll(index, now, actions) {
      for (const flight of [...flights.of(index)]) cancel(flight, now, actions)
    },
    hedged,
    mayWaste: () => wastedBytes + hedged() <= WASTE * arrivedBytes + FREE_WASTE * blockSize,
  }
}
