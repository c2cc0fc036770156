import type { Holder, Holders } from './holders.ts'
import type { LedgerLimits } from './limits.ts'
import type { Lease } from './types.ts'

interface Grant {
  readonly id: string
  readonly holder: Holder
  readonly start: number
  /** Blocks; Infinity: to the end, whatever others hold. */
  readonly count: number
  /** Blocks of the range that nobody has; not kept for an endless one. */
  left: number
  readonly grantedAt: number
  delivered: number
}

/** Who may fetch which blocks of one blob from upstream. */
export interface Leases {
  /** A block got its first holder: progress of the lease that covers it. `lost`: its last holder went. */
  gained(index: number, by: Holder, now: number): void
  lost(index: number): void
  /** Frees the leases whose holders show no progress. */
  expire(now: number): void
  /** Gives the holder what it may have now, if anything; to be called after `expire`. */
  grant(holder: Holder, now: number): void
  /** Frees a lease of the holder; `done`: it claims to have delivered all. */
  release(id: string, holder: Holder, done: boolean, now: number): void
  releaseAll(holder?: Holder): void
  of(holder: Holder): Lease[]
  holds(holder: Holder): boolean
  /** Upstream ignores ranges: from now on one endless lease at a time. */
  wholeOnly(): void
  readonly live: number
}

/** What the leases ask of the ledger around them. */
export interface Surroundings {
  /** Blocks of the blob, undefined while its size is unknown. */
  blocks(): number | undefined
  /** Nodes that could take a lease now, those that let one lapse included. */
  seeders(now: number): Holder[]
}

/** Leases that one node holds at a time: the second one keeps its upstream busy while it asks for the next. */
const LEASES_EACH = 2
const LAPSE_MS = 5000
const MAX_LAPSE_MS = 60_000

export function createLeases(
  limits: LedgerLimits,
  blockSize: number,
  name: string,
  holders: Holders,
  around: Surroundings,
): Leases {
  const grants: Grant[] = []
  /** When each lessee last showed progress, and the longest it lately took for it. */
  const moved = new Map<Holder, { at: number; slowest: number }>()
  /** Last lease's blocks of each node, from which the next grows. */
  const sizes = new WeakMap<Holder, number>()
  let serial = 0
  let whole = false
  /** Doubled by every lapse of a node that was alive, so that a slow uplink gets the time that it needs. */
  let patience = 1
  /** No block below is without a holder. */
  let low = 0

  function covering(index: number): Grant | undefined {
    return grants.find((grant) => index >= grant.start && index < grant.start + grant.count)
  }

  function rateOf(holder: Holder): number {
    return holder.seedRate || holder.seenRate
  }

  function allowance(holder: Holder): number {
    let rate = rateOf(holder)
    if (rate === 0) {
      const rates = grants.map((grant) => rateOf(grant.holder)).filter((known) => known > 0)
      if (rates.length > 0) rate = rates.reduce((a, b) => a + b) / rates.length
    }
    const block = rate > 0 ? (4000 * blockSize) / rate : 0
    const slowest = 4 * (moved.get(holder)?.slowest ?? 0)
    return Math.min(limits.maxTtlMs, Math.max(limits.ttlMs * patience, block, slowest))
  }

  function remove(grant: Grant): void {
    grants.splice(grants.indexOf(grant), 1)
    if (!grants.some((other) => other.holder === grant.holder)) moved.delete(grant.holder)
  }

  function lapse(holder: Holder, now: number): void {
    holder.lapses++
    holder.lapsedUntil = now + Math.min(MAX_LAPSE_MS, LAPSE_MS * 2 ** (holder.lapses - 1))
  }

  /** How many nodes may hold leases: enough to add up uplinks, few enough that a block does not take ages. */
  function lesseeLimit(): number {
    const lessees = new Set(grants.map((grant) => grant.holder))
    let rate = 0
    for (const lessee of lessees) rate += rateOf(lessee)
    if (rate === 0) return limits.lessees
    const blocksEachSecond = Math.round(rate / blockSize)
    return Math.min(limits.maxLessees, Math.max(limits.minLessees, blocksEachSecond))
  }

  /** The first free run of blocks: neither held nor leased. */
  function freeRun(end: number): { start: number; length: number } | undefined {
    while (low < end && holders.held(low) > 0) low++
    let start = low
    while (start < end) {
      const grant = covering(start)
      if (grant !== undefined) start = grant.start + grant.count
      else if (holders.held(start) > 0) start++
      else break
    }
    if (start >= end) return undefined
    let stop = start + 1
    while (stop < end && stop - start < limits.maxLease / blockSize) {
      if (holders.held(stop) > 0 || covering(stop) !== undefined) break
      stop++
    }
    return { start, length: stop - start }
  }

  function wantedBlocks(holder: Holder, now: number, blocks: number | undefined): number {
    const rate = rateOf(holder)
    const first = Math.max(1, Math.round(limits.firstLease / blockSize))
    const last = sizes.get(holder)
    let wanted = last ?? first
    if (rate > 0) {
      const bytes = Math.min(limits.maxLease, Math.max(limits.minLease, (rate * limits.leaseMs) / 1000))
      wanted = Math.max(1, Math.min(Math.round(bytes / blockSize), (last ?? first) * 4))
    }
    if (blocks === undefined) return wanted
    const others = around.seeders(now).filter((other) => other !== holder)
    if (others.length === 0) return wanted
    const missing = blocks - holders.heldBelow(blocks)
    const leased = grants.reduce((sum, grant) => sum + grant.left, 0)
    // What the others do in the time in which a slow node brings one block, they had better do themselves.
    const theirs = others.reduce((sum, other) => sum + rateOf(other), 0)
    if (rate > 0 && theirs > 0 && blockSize / rate > 0.5 + (1.5 * missing * blockSize) / theirs) return 0
    const sharers = Math.min(others.length + 1, lesseeLimit())
    const share = Math.max(1, Math.floor((missing - leased) / (2 * sharers)))
    return Math.min(wanted, share)
  }

  function mayHaveAnother(holder: Holder, now: number): boolean {
    const own = grants.filter((grant) => grant.holder === holder)
    if (own.length >= (whole ? 1 : LEASES_EACH)) return false
    const current = own[0]
    if (current !== undefined) return current.left <= current.count / 2
    if (holder.lapsedUntil > now) {
      const fit = around.seeders(now).some((other) => other !== holder && other.lapsedUntil <= now)
      if (fit) return false
    }
    return new Set(grants.map((grant) => grant.holder)).size < lesseeLimit()
  }

  function add(holder: Holder, start: number, count: number, now: number): void {
    grants.push({
      id: `${name}-${++serial}`,
      holder,
      start,
      count,
      left: count,
      grantedAt: now,
      delivered: 0,
    })
    if (!moved.has(holder)) moved.set(holder, { at: now, slowest: 0 })
  }

  return {
    gained(index, by, now) {
      const grant = covering(index)
      if (grant === undefined) return
      grant.left--
      grant.delivered++
      const progress = moved.get(grant.holder)
      if (progress !== undefined) {
        const interval = now - progress.at
        progress.slowest = Math.max(interval, progress.slowest * 0.8)
        progress.at = now
        if (interval < limits.ttlMs / 2) patience = Math.max(1, patience / 2)
      }
      if (by === grant.holder) {
        by.lapses = 0
        by.refused = undefined
        const seconds = (now - grant.grantedAt) / 1000
        if (seconds > 0) by.seenRate = (grant.delivered * blockSize) / seconds
      }
      if (grant.left <= 0) remove(grant)
    },

    lost(index) {
      if (index < low) low = index
      const grant = covering(index)
      if (grant !== undefined) grant.left++
    },

    expire(now) {
      for (const grant of [...grants]) {
        const { holder } = grant
        const silent = now - holder.heardAt > Math.max(limits.ttlMs, 3 * holder.retryMs)
        const stuck = now - (moved.get(holder)?.at ?? now) > allowance(holder)
        if (!silent && !stuck) continue
        if (!silent) patience = Math.min(patience * 2, limits.maxTtlMs / limits.ttlMs)
        for (const each of grants.filter((other) => other.holder === holder)) remove(each)
        lapse(holder, now)
      }
    },

    grant(holder, now) {
      if (!mayHaveAnother(holder, now)) return
      const blocks = around.blocks()
      if (whole) {
        if (grants.length > 0) return
        if (blocks !== undefined && holders.heldBelow(blocks) >= blocks) return
        add(holder, 0, Number.POSITIVE_INFINITY, now)
        return
      }
      // Nobody knows where the end is: one node finds out before others go further.
      if (blocks === undefined && grants.some((grant) => grant.holder !== holder)) return
      const run = freeRun(blocks ?? limits.blocks)
      if (run === undefined) return
      const count = Math.min(run.length, wantedBlocks(holder, now, blocks))
      if (count < 1) return
      sizes.set(holder, Math.max(count, sizes.get(holder) ?? 0))
      add(holder, run.start, count, now)
    },

    release(id, holder, done, now) {
      const grant = grants.find((each) => each.id === id && each.holder === holder)
      if (grant === undefined) return
      remove(grant)
      const blocks = around.blocks() ?? Number.POSITIVE_INFINITY
      const end = Math.min(grant.start + grant.count, blocks)
      if (!done || end === Number.POSITIVE_INFINITY) return
      for (let index = grant.start; index < end; index++) {
        if (holders.held(index) > 0) continue
        // It says that it is done, but the block is not there: not again to this node if another one can.
        lapse(holder, now)
        return
      }
    },

    releaseAll(holder) {
      for (const grant of [...grants]) if (holder === undefined || grant.holder === holder) remove(grant)
    },

    of(holder) {
      return grants
        .filter((grant) => grant.holder === holder)
        .map(({ id, start, count }) => ({ id, start, count, ttlMs: allowance(holder) }))
    },

    holds: (holder) => grants.some((grant) => grant.holder === holder),

    wholeOnly() {
      if (whole) return
      whole = true
      for (const grant of [...grants]) remove(grant)
    },

    get live() {
      return grants.length
    },
  }
}
