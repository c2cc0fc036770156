import { hasBit } from './bits.ts'
import type { Holder, Holders } from './holders.ts'
import type { LedgerLimits } from './limits.ts'
import { leaseBlocks, lesseeLimit, rateOf } from './sizing.ts'
import type { Lease } from './types.ts'

interface Grant {
  readonly id: string
  readonly holder: Holder
  readonly start: number
  /** Blocks; Infinity: to the end, whatever others hold. */
  readonly count: number
  /** Others have the blocks, but the lessee gets nothing of them. */
  readonly again: boolean
  /** Blocks of the range that nobody has; where `again`, that the lessee has not. */
  left: number
  delivered: number
  readonly grantedAt: number
}

/** Who may fetch which blocks of one blob from upstream. */
export interface Leases {
  /** A node got a block, the first one of all where `first`. `lost`: a block's last holder went. */
  gained(index: number, by: Holder, first: boolean, now: number): void
  lost(index: number): void
  /** Frees the leases whose holders show no progress. */
  expire(now: number): void
  /** Gives the holder what it may have now, if anything; to be called after `expire`. */
  grant(holder: Holder, now: number): void
  /** Frees a lease of the holder; `done`: it claims to have delivered all. */
  release(id: string, holder: Holder, done: boolean, now: number): void
  releaseAll(holder: Holder): void
  of(holder: Holder): Lease[]
  holds(holder: Holder): boolean
  /** Upstream ignores ranges: from now on one endless lease at a time. */
  wholeOnly(): void
  readonly live: number
  /** Blocks that came under the live leases. */
  readonly delivered: number
}

/** What the leases ask of the ledger around them. */
export interface Surroundings {
  /** Blocks of the blob, undefined while its size is unknown. */
  blocks(): number | undefined
  /** Nodes that could take a lease now, those that let one lapse included. */
  seeders(): Holder[]
  /** True while somebody not heard of yet is likely to have the block. */
  rumoured(index: number): boolean
}

/** Leases that one node holds at a time: the second one keeps its upstream busy while it asks for the next. */
const LEASES_EACH = 2
const LAPSE_MS = 5000
const MAX_LAPSE_MS = 60_000
/** A lease that would take longer than this goes to a node so much faster, when there is nothing else left to lease. */
const CRAWL_MS = 10_000
const FASTER = 4

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
  /** The largest lease of each node so far, in blocks. */
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
    const at = grants.indexOf(grant)
    if (at >= 0) grants.splice(at, 1)
    if (!grants.some((other) => other.holder === grant.holder)) moved.delete(grant.holder)
  }

  function removeAll(holder: Holder): void {
    for (const grant of grants.filter((each) => each.holder === holder)) remove(grant)
  }

  function lapse(holder: Holder, now: number): void {
    holder.lapses++
    holder.lapsedUntil = now + Math.min(MAX_LAPSE_MS, LAPSE_MS * 2 ** (holder.lapses - 1))
  }

  function lessees(): number {
    return lesseeLimit(limits, blockSize, moved.keys())
  }

  function mayHaveAnother(holder: Holder, now: number): boolean {
    const own = grants.filter((grant) => grant.holder === holder)
    if (own.length >= (whole ? 1 : LEASES_EACH)) return false
    const current = own[0]
    if (current !== undefined) return current.left <= current.count / 2
    if (holder.lapsedUntil > now) {
      const fit = around.seeders().some((other) => other !== holder && other.lapsedUntil <= now)
      if (fit) return false
    }
    return moved.size < lessees()
  }

  /** The first run of blocks from `from` that are not leased and that `wanted` holds for. */
  function firstRun(
    from: number,
    end: number,
    wanted: (index: number) => boolean,
  ): { start: number; length: number } | undefined {
    let start = from
    while (start < end) {
      if (wanted(start)) {
        const grant = covering(start)
        if (grant === undefined) break
        start = grant.start + grant.count
      } else start++
    }
    if (start >= end) return undefined
    let stop = start + 1
    const most = start + limits.maxLease / blockSize
    while (stop < end && stop < most && wanted(stop) && covering(stop) === undefined) stop++
    return { start, length: stop - start }
  }

  function freeRun(end: number): { start: number; length: number } | undefined {
    while (low < end && holders.held(low) > 0) low++
    return firstRun(low, end, (index) => holders.held(index) === 0 && !around.rumoured(index))
  }

  /** Blocks that others have had for long, while the node gets nothing of anybody: they may not have them, or not for it. */
  function strandedRun(
    holder: Holder,
    end: number,
    now: number,
  ): { start: number; length: number } | undefined {
    const since = now - limits.strandedMs
    if (holder.grownAt > since || moved.has(holder)) return undefined
    return firstRun(
      0,
      end,
      (index) => !hasBit(holder.have, index) && holders.held(index) > 0 && holders.heldSince(index) <= since,
    )
  }

  /** Upstream did not answer somebody a moment ago: then those who claim to have the blocks are the better hope. */
  function unreachable(now: number): boolean {
    return holders.list.some(({ refused }) => refused?.reason === 'unreachable' && refused.until > now)
  }

  /** Takes back the lease that would keep everybody waiting, if the node is so much faster. */
  function takeFromSlow(holder: Holder, now: number): boolean {
    // What it says it could, and what it lately did.
    const rate = Math.min(rateOf(holder), holder.seenRate)
    if (rate === 0) return false
    for (const grant of grants) {
      if (grant.holder === holder || grant.again || now - grant.grantedAt < CRAWL_MS / 2) continue
      const seen = (grant.delivered * blockSize * 1000) / (now - grant.grantedAt)
      const theirs = grant.delivered > 0 ? seen : rateOf(grant.holder)
      if (theirs === 0 || rate < FASTER * theirs || (grant.left * blockSize * 1000) / theirs < CRAWL_MS)
        continue
      remove(grant)
      lapse(grant.holder, now)
      return true
    }
    return false
  }

  function sizeFor(holder: Holder, now: number, blocks: number | undefined): number {
    const others =
      blocks === undefined
        ? []
        : around.seeders().filter((other) => other !== holder && other.lapsedUntil <= now)
    const missing = blocks === undefined ? 0 : blocks - holders.heldBelow(blocks)
    const leased = grants.reduce((sum, grant) => sum + (grant.again ? 0 : grant.left), 0)
    const last = sizes.get(holder) ?? 0
    return leaseBlocks(limits, blockSize, { holder, last, others, missing, leased, lessees: lessees() })
  }

  function add(holder: Holder, start: number, count: number, again: boolean, now: number): void {
    const id = `${name}-${++serial}`
    grants.push({ id, holder, start, count, again, left: count, delivered: 0, grantedAt: now })
    if (!moved.has(holder)) moved.set(holder, { at: now, slowest: 0 })
    if (count !== Number.POSITIVE_INFINITY) sizes.set(holder, Math.max(count, sizes.get(holder) ?? 0))
  }

  return {
    gained(index, by, first, now) {
      if (!first && !moved.has(by)) return
      const grant = covering(index)
      if (grant === undefined) return
      if (by === grant.holder) {
        grant.delivered++
        by.lapses = 0
        by.refused = undefined
        const seconds = (now - grant.grantedAt) / 1000
        if (seconds > 0) by.seenRate = (grant.delivered * blockSize) / seconds
        const progress = moved.get(by)!
        const interval = now - progress.at
        progress.slowest = Math.max(interval, progress.slowest * 0.8)
        progress.at = now
        if (interval < limits.ttlMs / 2) patience = Math.max(1, patience / 2)
      }
      if (grant.again ? by === grant.holder : first) grant.left--
      if (grant.left <= 0) remove(grant)
    },

    lost(index) {
      if (index < low) low = index
      const grant = covering(index)
      if (grant !== undefined && !grant.again) grant.left++
    },

    expire(now) {
      for (const [holder, progress] of [...moved]) {
        const silent = now - holder.heardAt > Math.max(limits.ttlMs, 3 * holder.retryMs)
        const stuck = now - progress.at > allowance(holder)
        if (!silent && !stuck) continue
        if (!silent) patience = Math.min(patience * 2, limits.maxTtlMs / limits.ttlMs)
        removeAll(holder)
        lapse(holder, now)
      }
    },

    grant(holder, now) {
      if (!mayHaveAnother(holder, now)) return
      const blocks = around.blocks()
      if (whole) {
        const stranded = blocks !== undefined && strandedRun(holder, blocks, now) !== undefined
        if (grants.length > 0) return
        if (blocks !== undefined && holders.heldBelow(blocks) >= blocks && !stranded) return
        add(holder, 0, Number.POSITIVE_INFINITY, stranded, now)
        return
      }
      // Nobody knows where the end is: one node finds out before others go further.
      if (blocks === undefined && grants.some((grant) => grant.holder !== holder)) return
      const end = blocks ?? limits.blocks
      let run = freeRun(end)
      if (run === undefined) {
        const stranded = strandedRun(holder, end, now)
        if (stranded !== undefined && unreachable(now)) return
        if (stranded !== undefined) {
          holders.doubt(stranded.start, holder, now + limits.doubtMs)
          if (holders.held(stranded.start) > 0) {
            const count = Math.min(stranded.length, Math.max(1, sizeFor(holder, now, undefined)))
            add(holder, stranded.start, count, true, now)
            return
          }
          run = freeRun(end)
        } else if (takeFromSlow(holder, now)) run = freeRun(end)
      }
      if (run === undefined) return
      const most = blocks === undefined && !sizes.has(holder) ? limits.firstLease / blockSize : run.length
      const count = Math.min(run.length, Math.ceil(most), sizeFor(holder, now, blocks))
      if (count > 0) add(holder, run.start, count, false, now)
    },

    release(id, holder, done, now) {
      const grant = grants.find((each) => each.id === id && each.holder === holder)
      if (grant === undefined) return
      remove(grant)
      const end = Math.min(grant.start + grant.count, around.blocks() ?? Number.POSITIVE_INFINITY)
      if (!done || end === Number.POSITIVE_INFINITY) return
      for (let index = grant.start; index < end; index++) {
        if (holders.held(index) > 0) continue
        // It says that it is done, but the block is not there: not again to this node if another one can.
        lapse(holder, now)
        return
      }
    },

    releaseAll: removeAll,

    of(holder) {
      return grants
        .filter((grant) => grant.holder === holder)
        .map(({ id, start, count }) => ({ id, start, count, ttlMs: allowance(holder) }))
    },

    holds: (holder) => moved.has(holder),

    wholeOnly() {
      if (whole) return
      whole = true
      for (const grant of [...grants]) remove(grant)
    },

    get live() {
      return grants.length
    },
    get delivered() {
      return grants.reduce((sum, grant) => sum + grant.delivered, 0)
    },
  }
}
