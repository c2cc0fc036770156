import { createBoard, wordsOf } from './board.ts'
import { DEFAULT_LIMITS, type PlannerLimits } from './limits.ts'
import type { Action, FetchFailure, PeerBook, PeerId, Planner, Priority } from './types.ts'

interface Source {
  readonly id: PeerId
  words: Uint32Array
}

interface Flight {
  readonly index: number
  readonly peer: PeerId
  readonly bytes: number
  readonly startedAt: number
  readonly expectedMs: number
  movedAt: number
  got: number
}

interface Range {
  start: number
  count: number
  movedAt: number | undefined
  late: boolean
}

/** How long until another look when nothing of this task's own would bring one. */
const POLL_MS = 50
/** A seeding range that is not bounded is taken in up to this many blocks past what is known of the blob. */
const MAX_SPAN = 2 ** 22

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
  const board = createBoard()
  const sources = new Map<PeerId, Source>()
  const flights = new Map<number, Flight[]>()
  const readers = new Map<number, number>()
  let bytesTotal: number | undefined
  let windowBlocks: number | undefined
  let ranges: Range[] = []
  let cancels: Action[] = []

  function bytesOf(index: number): number {
    if (bytesTotal === undefined) return blockSize
    return Math.max(1, Math.min(blockSize, bytesTotal - index * blockSize))
  }

  function offers(source: Source, index: number): boolean {
    return (((source.words[index >>> 5] ?? 0) >>> (index & 31)) & 1) === 1
  }

  function setWord(source: Source, index: number, value: boolean): void {
    const word = index >>> 5
    if (word >= source.words.length) {
      if (!value) return
      const larger = new Uint32Array(Math.max(word + 1, Math.ceil(board.end / 32), source.words.length * 2))
      larger.set(source.words)
      source.words = larger
    }
    const old = source.words[word]!
    const now = value ? old | (1 << (index & 31)) : old & ~(1 << (index & 31))
    if (now >>> 0 === old) return
    source.words[word] = now
    board.setRarity(index, value ? 1 : -1)
  }

  function replaceWords(source: Source, words: Uint32Array): void {
    const length = Math.max(words.length, source.words.length)
    for (let word = 0; word < length; word++) {
      const before = source.words[word] ?? 0
      const after = words[word] ?? 0
      for (let rest = before ^ after; rest !== 0; rest &= rest - 1) {
        const bit = 31 - Math.clz32(rest & -rest)
        board.setRarity(word * 32 + bit, (after >>> bit) & 1 ? 1 : -1)
      }
    }
    source.words = words
  }

  function room(peer: PeerId, bytes: number, now: number): boolean {
    return !book.shunned(peer, now) && book.room(peer, priority, now) >= bytes
  }

  function ask(index: number, peer: PeerId, hedge: boolean, now: number, actions: Action[]): void {
    const bytes = bytesOf(index)
    const expectedMs = book.expectMs(peer, bytes)
    book.asked(peer, bytes, now)
    const flight = { index, peer, bytes, startedAt: now, expectedMs, movedAt: now, got: 0 }
    const others = flights.get(index)
    if (others === undefined) flights.set(index, [flight])
    else others.push(flight)
    board.setAsked(index, true)
    actions.push({ type: 'ask', index, peer, bytes, hedge })
  }

  function take(index: number, peer: PeerId): Flight | undefined {
    const list = flights.get(index)
    const at = list?.findIndex((flight) => flight.peer === peer) ?? -1
    if (list === undefined || at < 0) return undefined
    const [flight] = list.splice(at, 1)
    if (list.length === 0) {
      flights.delete(index)
      board.setAsked(index, false)
    }
    return flight
  }

  function cancelAll(index: number, actions: Action[]): void {
    for (const flight of [...(flights.get(index) ?? [])]) {
      take(index, flight.peer)
      book.released(flight.peer, flight.bytes)
      actions.push({ type: 'cancel', index, peer: flight.peer })
    }
  }

  /** The peer that would bring the block soonest, among those that have room and are not asked for it already. */
  function bestSource(index: number, now: number): { peer: PeerId; expectMs: number } | undefined {
    const bytes = bytesOf(index)
    const asked = flights.get(index)
    let best: { peer: PeerId; expectMs: number } | undefined
    for (const source of sources.values()) {
      if (!offers(source, index) || asked?.some((flight) => flight.peer === source.id)) continue
      if (!room(source.id, bytes, now)) continue
      const expectMs = book.expectMs(source.id, bytes)
      if (best === undefined || expectMs < best.expectMs) best = { peer: source.id, expectMs }
    }
    return best
  }

  function markSeeding(): void {
    for (const range of ranges) {
      const stop = Math.min(range.start + range.count, board.end, range.start + MAX_SPAN)
      for (let index = range.start; index < stop; index++) board.setSeeding(index, !range.late)
    }
  }

  function watchSeeding(now: number): void {
    for (const range of ranges) {
      range.movedAt ??= now
      const late = now - range.movedAt >= limits.seedLateMs
      if (late === range.late) continue
      range.late = late
      markSeeding()
    }
  }

  function dueAt(flight: Flight): number {
    let next = false
    for (const at of readers.values()) if (at === flight.index) next = true
    const patience = Math.max(3 * flight.expectedMs, next ? limits.readerLateMs : limits.lateMs)
    return flight.movedAt + patience
  }

  function hedge(now: number, actions: Action[]): void {
    for (const list of [...flights.values()]) {
      if (list.length >= 2) continue
      const flight = list[0]!
      if (now < dueAt(flight)) continue
      const other = bestSource(flight.index, now)
      if (other !== undefined) ask(flight.index, other.peer, true, now, actions)
      else flight.movedAt = now
    }
  }

  function askForReaders(now: number, actions: Action[]): void {
    const ahead = Math.min(limits.ahead, windowBlocks ?? limits.ahead)
    for (const next of readers.values()) {
      const stop = Math.min(board.end, next + ahead)
      for (let index = next; index < stop; index++) {
        if (!board.isFree(index)) continue
        const best = bestSource(index, now)
        if (best !== undefined) ask(index, best.peer, false, now, actions)
      }
    }
  }

  function askInWindow(now: number, actions: Action[]): void {
    for (const next of readers.values()) {
      const stop = Math.min(board.end, next + windowBlocks!)
      for (let index = next; index < stop; index++) {
        if (!board.isFree(index)) continue
        const best = bestSource(index, now)
        if (best !== undefined) ask(index, best.peer, false, now, actions)
      }
    }
  }

  function askRarest(now: number, actions: Action[]): void {
    const able: { source: Source; expectMs: number }[] = []
    for (const source of sources.values()) {
      if (room(source.id, blockSize, now))
        able.push({ source, expectMs: book.expectMs(source.id, blockSize) })
    }
    while (able.length > 0 && board.free > 0) {
      let at = 0
      for (let i = 1; i < able.length; i++) if (able[i]!.expectMs < able[at]!.expectMs) at = i
      const best = able[at]!
      const index = board.rarest(best.source.words, random)
      if (index >= 0) {
        ask(index, best.source.id, false, now, actions)
        best.expectMs = book.expectMs(best.source.id, blockSize)
      }
      if (index < 0 || !room(best.source.id, blockSize, now)) {
        able[at] = able[able.length - 1]!
        able.pop()
      }
    }
  }

  function askLast(now: number, actions: Action[]): void {
    const missing = board.end - board.here
    if (bytesTotal === undefined || board.free > 0 || missing === 0 || missing > limits.endgame) return
    if (flights.size < missing) return
    for (const list of [...flights.values()]) {
      if (list.length >= limits.copies) continue
      const first = list[0]!
      const elapsed = now - first.startedAt
      const left = Math.max(first.expectedMs - elapsed, elapsed / 2)
      const other = bestSource(first.index, now)
      if (other !== undefined && left > 2 * other.expectMs) ask(first.index, other.peer, true, now, actions)
    }
  }

  return {
    size(bytes) {
      bytesTotal = bytes
      board.setEnd(Math.ceil(bytes / blockSize))
      markSeeding()
    },

    got(index) {
      board.setHas(index, true)
      for (const range of ranges) {
        if (index >= range.start && index < range.start + range.count) range.movedAt = undefined
      }
      cancelAll(index, cancels)
    },
    lost: (index) => board.setHas(index, false),
    known: (index) => board.setKnown(index, true),
    forgetCut(index) {
      board.setKnown(index, false)
      cancelAll(index, cancels)
    },

    peer(id, have) {
      let source = sources.get(id)
      if (source === undefined) {
        source = { id, words: new Uint32Array(0) }
        sources.set(id, source)
      }
      replaceWords(source, wordsOf(have))
    },
    peerHas(id, index) {
      let source = sources.get(id)
      if (source === undefined) {
        source = { id, words: new Uint32Array(0) }
        sources.set(id, source)
      }
      setWord(source, index, true)
    },
    dropPeer(id) {
      const source = sources.get(id)
      if (source === undefined) return
      replaceWords(source, new Uint32Array(0))
      sources.delete(id)
      for (const list of [...flights.values()]) {
        for (const flight of [...list]) {
          if (flight.peer !== id) continue
          take(flight.index, id)
          book.released(id, flight.bytes)
          cancels.push({ type: 'cancel', index: flight.index, peer: id })
        }
      }
    },

    seeding(next) {
      const old = ranges
      for (const range of old) range.late = true
      markSeeding()
      ranges = next.map(({ start, count }) => {
        const same = old.find((range) => range.start === start && range.count === count)
        return { start, count, movedAt: same?.movedAt, late: false }
      })
      markSeeding()
    },
    reader(id, next) {
      if (next === undefined) readers.delete(id)
      else readers.set(id, next)
    },
    window(blocks) {
      windowBlocks = blocks
    },

    progress(index, peer, bytes, now) {
      const flight = flights.get(index)?.find((each) => each.peer === peer)
      if (flight === undefined || bytes <= flight.got) return
      flight.got = bytes
      flight.movedAt = now
    },
    arrived(index, peer, now) {
      const flight = take(index, peer)
      if (flight !== undefined) book.arrived(peer, flight.bytes, flight.startedAt, now)
      board.setHas(index, true)
      const actions: Action[] = []
      cancelAll(index, actions)
      return actions
    },
    failed(index, peer, reason: FetchFailure, now) {
      const flight = take(index, peer)
      if (flight === undefined) return
      book.failed(peer, flight.bytes, reason, now)
      const source = sources.get(peer)
      if (source !== undefined && (reason === 'missing' || reason === 'corrupt'))
        setWord(source, index, false)
    },

    next(now) {
      const actions = cancels
      cancels = []
      watchSeeding(now)
      hedge(now, actions)
      if (board.free > 0) {
        askForReaders(now, actions)
        if (windowBlocks === undefined) askRarest(now, actions)
        else askInWindow(now, actions)
      }
      askLast(now, actions)
      return actions
    },

    wakeAt(now) {
      let at = Number.POSITIVE_INFINITY
      for (const list of flights.values()) if (list.length < 2) at = Math.min(at, dueAt(list[0]!))
      for (const range of ranges) {
        if (!range.late) at = Math.min(at, (range.movedAt ?? now) + limits.seedLateMs)
      }
      if (board.free > 0) {
        for (const source of sources.values()) {
          if (book.shunned(source.id, now)) at = Math.min(at, book.describe(source.id).shunnedUntil)
        }
        if (flights.size === 0 && sources.size > 0) at = Math.min(at, now + POLL_MS)
      }
      return at === Number.POSITIVE_INFINITY ? undefined : Math.max(at, now + 1)
    },
  }
}
