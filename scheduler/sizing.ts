import type { Holder } from './holders.ts'
import type { LedgerLimits } from './limits.ts'

/** Bytes a second that the node gets from upstream, as it says or as its reports show; 0 if neither is known. */
export function rateOf(holder: Holder): number {
  return holder.seedRate || holder.seenRate
}

/** How many nodes may hold leases: enough to add up uplinks, few enough that a block does not take ages. */
export function lesseeLimit(limits: LedgerLimits, blockSize: number, lessees: Iterable<Holder>): number {
  let rate = 0
  for (const lessee of lessees) rate += rateOf(lessee)
  if (rate === 0) return limits.lessees
  const blocksEachSecond = Math.round(rate / blockSize)
  return Math.min(limits.maxLessees, Math.max(limits.minLessees, blocksEachSecond))
}

/** How many times faster another node must be to be left the rest. */
const MUCH = 2

/**
 * Blocks of the next lease: what takes the node `leaseMs`, at most four times what it had before, and at most half of its
 * equal share of what is not leased yet, so that all uplinks end at about the same time. That is guided self-scheduling
 * (C. Polychronopoulos and D. Kuck, IEEE Transactions on Computers 36(12), 1987). 0: the others are done sooner without it.
 */
export function leaseBlocks(
  limits: LedgerLimits,
  blockSize: number,
  asker: {
    holder: Holder
    /** Blocks of its largest lease so far, 0 if it had none. */
    last: number
    /** Nodes that could seed beside it; [] where the blob's size is unknown. */
    others: readonly Holder[]
    /** Blocks that nobody has, and those of them that are leased. */
    missing: number
    leased: number
    /** Nodes that may hold leases at a time. */
    lessees: number
  },
): number {
  const { holder, last, others, missing, leased, lessees } = asker
  const rate = rateOf(holder)
  const first = last > 0 ? last : Math.max(1, Math.round(limits.firstLease / blockSize))
  let wanted = first
  if (rate > 0) {
    const bytes = Math.min(limits.maxLease, Math.max(limits.minLease, (rate * limits.leaseMs) / 1000))
    wanted = Math.max(1, Math.min(Math.round(bytes / blockSize), first * 4))
  }
  if (others.length === 0) return wanted
  // A block that a slow node begins at the end holds up everybody: those much faster are done with all sooner.
  let faster = 0
  for (const other of others) if (rateOf(other) > MUCH * rate) faster += rateOf(other)
  if (rate > 0 && faster > 0 && blockSize / rate > 0.5 + (1.5 * missing * blockSize) / faster) return 0
  const sharers = Math.min(others.length + 1, lessees)
  return Math.min(wanted, Math.max(1, Math.floor((missing - leased) / (2 * sharers))))
}
