import { DEFAULT_LIMITS, type PeerLimits } from './limits.ts'
import type { FetchFailure, PeerBook, PeerId, Priority } from './types.ts'

interface Entry {
  inFlight: number
  /** What was in flight before each ask of now: its own queue is not the path's latency. */
  asks: { at: number; ahead: number }[]
  /** Decaying sums of bytes received and of the ms in which something was in flight: their quotient is the rate. */
  bytes: number
  busyMs: number
  /** From when on the peer's time has not been counted yet. */
  countedTo: number
  /** Time that a lone block takes: the least seen, which drifts up slowly so that a changed path is noticed. */
  latencyMs: number
  failures: number
  misses: number
  shunnedUntil: number
}

/** How long the sums remember: a sum loses half its weight with every this many bytes. */
const HALF_LIFE = 8 * 2 ** 20
const MAX_ASKS = 64
/** How fast the least latency follows what is seen now, so that a path that became longer is noticed. */
const DRIFT = 0.002
/** A client's task counts as active for this long after it last asked for room. */
const CLIENT_MS = 2000
/** What came of a cancelled block counts for at most this long. */
const PART_MS = 500
/** Answers "I have it not" that cost a peer nothing: claims and evictions cross. */
const FREE_MISSES = 3

/**
 * Keeps the behaviour of peers. A peer's budget is twice the product of its rate and its least latency, the way BBR sizes
 * its window (N. Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5), 2016).
 */
export function createPeerBook(options: { limits?: Partial<PeerLimits> } = {}): PeerBook {
  const limits = { ...DEFAULT_LIMITS.peers, ...options.limits }
  const entries = new Map<PeerId, Entry>()
  let inFlight = 0
  let clientAt = Number.NEGATIVE_INFINITY

  function entry(peer: PeerId): Entry {
    let found = entries.get(peer)
    if (found === undefined) {
      if (entries.size >= limits.peers) makeRoom()
      found = {
        inFlight: 0,
        asks: [],
        bytes: 0,
        busyMs: 0,
        countedTo: 0,
        latencyMs: 0,
        failures: 0,
        misses: 0,
        shunnedUntil: 0,
      }
      entries.set(peer, found)
    }
    return found
  }

  /** Forgets the entry made first among those that nothing hangs on. */
  function makeRoom(): void {
    for (const [peer, { inFlight: bytes, shunnedUntil }] of entries) {
      if (bytes === 0 && shunnedUntil === 0) {
        entries.delete(peer)
        return
      }
    }
  }

  function rateOf(known: Entry): number {
    return known.bytes === 0 ? limits.rate : (known.bytes / Math.max(known.busyMs, 0.01)) * 1000
  }

  function budgetOf(known: Entry): number {
    if (known.bytes === 0) return limits.minBudget
    const product = (rateOf(known) * known.latencyMs) / 1000
    // A little more than twice: two blocks just fit where one was measured.
    return Math.min(limits.maxBudget, Math.max(limits.minBudget, 2.1 * product))
  }

  function settle(known: Entry, bytes: number): void {
    const part = Math.min(bytes, known.inFlight)
    known.inFlight -= part
    inFlight -= part
  }

  function shun(known: Entry, ms: number, now: number): void {
    known.shunnedUntil = Math.max(known.shunnedUntil, now + ms)
  }

  return {
    get inFlight() {
      return inFlight
    },

    room(peer: PeerId, priority: Priority, now: number): number {
      if (priority === 'client') clientAt = now
      const yields = priority === 'preheat' && now - clientAt < CLIENT_MS
      const total = (yields ? limits.total / 2 : limits.total) - inFlight
      if (total <= 0) return 0
      const known = entries.get(peer)
      if (known === undefined) return Math.min(total, limits.minBudget)
      if (known.shunnedUntil > now) return 0
      // Somebody who is asked for nothing can always be asked for one block.
      const budget = known.inFlight === 0 || !yields ? budgetOf(known) : budgetOf(known) / 2
      return Math.max(0, Math.min(total, budget - known.inFlight))
    },

    asked(peer: PeerId, bytes: number, now: number): void {
      const known = entry(peer)
      if (known.inFlight === 0) known.countedTo = now
      if (known.inFlight === 0 || known.asks.length >= MAX_ASKS) known.asks = []
      known.asks.push({ at: now, ahead: known.inFlight })
      known.inFlight += bytes
      inFlight += bytes
    },

    arrived(peer: PeerId, bytes: number, startedAt: number, now: number): void {
      const known = entry(peer)
      settle(known, bytes)
      const keep = 0.5 ** (bytes / HALF_LIFE)
      known.bytes = known.bytes * keep + bytes
      known.busyMs = known.busyMs * keep + Math.max(0, now - Math.max(known.countedTo, startedAt))
      known.countedTo = now
      const took = Math.max(0, now - startedAt)
      const at = known.asks.findIndex((ask) => ask.at === startedAt)
      const ahead = at < 0 ? 0 : known.asks.splice(at, 1)[0]!.ahead
      if (known.latencyMs === 0 || took < known.latencyMs) known.latencyMs = took
      else {
        const alone = took - (ahead / rateOf(known)) * 1000
        known.latencyMs += Math.max(0, alone - known.latencyMs) * DRIFT
      }
      known.failures = Math.floor(known.failures / 2)
      known.misses = 0
      if (known.failures === 0 && known.shunnedUntil <= now) known.shunnedUntil = 0
    },

    failed(peer: PeerId, bytes: number, reason: FetchFailure, now: number): void {
      const known = entry(peer)
      settle(known, bytes)
      known.countedTo = now
      if (reason === 'corrupt') {
        known.failures++
        shun(known, limits.corruptMs, now)
        return
      }
      if (reason === 'missing' && ++known.misses <= FREE_MISSES) return
      // Several blocks in flight fail together when a connection breaks: that is one failure.
      if (known.shunnedUntil > now) return
      known.failures++
      shun(known, Math.min(limits.maxBackoffMs, limits.backoffMs * 2 ** (known.failures - 1)), now)
    },

    released(peer, bytes, part) {
      const known = entries.get(peer)
      if (known === undefined) return
      settle(known, bytes)
      if (part === undefined) return
      const spent = Math.max(0, part.now - Math.max(known.countedTo, part.startedAt))
      known.countedTo = part.now
      // Weighs as no more than so long a look at the peer: it may only have had a bad moment.
      const share = Math.min(1, PART_MS / Math.max(spent, 1))
      known.bytes += Math.max(1, part.bytes * share)
      known.busyMs += spent * share
    },

    expectMs(peer: PeerId, bytes: number): number {
      const known = entries.get(peer)
      if (known === undefined) return limits.latencyMs + (bytes / limits.rate) * 1000
      const queue = ((known.inFlight + bytes) / rateOf(known)) * 1000
      return Math.max(known.latencyMs === 0 ? limits.latencyMs : known.latencyMs, queue)
    },

    shunned(peer: PeerId, now: number): boolean {
      const known = entries.get(peer)
      return known !== undefined && known.shunnedUntil > now
    },

    forget(peer: PeerId): void {
      const known = entries.get(peer)
      if (known === undefined) return
      inFlight -= known.inFlight
      known.inFlight = 0
      // Who lied does not get a clean slate by leaving and coming back.
      if (known.shunnedUntil === 0) entries.delete(peer)
    },

    describe(peer: PeerId) {
      const known = entries.get(peer)
      return {
        rate: known === undefined || known.bytes === 0 ? 0 : rateOf(known),
        latencyMs: known?.latencyMs ?? 0,
        inFlight: known?.inFlight ?? 0,
        failures: known?.failures ?? 0,
        shunnedUntil: known?.shunnedUntil ?? 0,
      }
    },
  }
}
