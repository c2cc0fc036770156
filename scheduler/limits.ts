/** Bounds of the coordinator's book of one blob. Times in ms, sizes in bytes. */
export interface LedgerLimits {
  /** Lessees at a time while nothing is known of the uplink; later between `minLessees` and `maxLessees`, by its speed. */
  lessees: number
  minLessees: number
  maxLessees: number
  /** First lease of a node whose uplink rate is unknown. */
  firstLease: number
  minLease: number
  maxLease: number
  /** A lease is sized to take about this long. */
  leaseMs: number
  /** A lease without news lapses after this, or later where blocks are known to take long; never later than `maxTtlMs`. */
  ttlMs: number
  maxTtlMs: number
  /** No leases after the upstream told the peer `missing` or `denied`, or was `unreachable` (doubling up to the other). */
  refusedMs: number
  unreachableMs: number
  /** A fresh coordinator of a task under way leases nothing for this long, since nodes are to report what they have. */
  settleMs: number
  /** And for so long no block of which somebody knew the cut. */
  rumourMs: number
  /** Either ends when no node was heard of for the first time for this long: then all have reported. */
  quietMs: number
  /** A puller that got nothing for so long of what others claim to have may fetch it from upstream. */
  strandedMs: number
  /** What few claim and nobody got counts for nothing for this long. */
  doubtMs: number
  /** When so many nodes were refused within `refusedMs`, and nothing came since, the others need not try in vain. */
  tries: number
  /** A puller not heard of for this long (or three times its `retryMs`) no longer counts as one. */
  silentMs: number
  /** Holders in one answer. */
  holders: number
  /** Cuts in one answer; the rest follows in the next. */
  cuts: number
  /** Highest number of blocks of a blob; what lies beyond is ignored. */
  blocks: number
}

/** Bounds of what is in flight from peers. Times in ms, sizes in bytes. */
export interface PeerLimits {
  /** In flight from one peer; the least of it at least a block. */
  minBudget: number
  maxBudget: number
  /** In flight from all peers together. */
  total: number
  /** What is assumed of a peer before the first block came. */
  rate: number
  latencyMs: number
  /** First back-off after a failure; doubles up to `maxBackoffMs`. */
  backoffMs: number
  maxBackoffMs: number
  corruptMs: number
  /** Peers remembered. */
  peers: number
}

/** Bounds of one task's choices. */
export interface PlannerLimits {
  /** Blocks ahead of a reader that come before all others. */
  ahead: number
  /** Highest number of peers that one block is asked of at a time. */
  copies: number
  /** A block is late after this, or three times what was expected. */
  lateMs: number
  /** The same for the block that a reader waits for, or twice what was expected; but late after `readerMaxMs` in any case. */
  readerLateMs: number
  readerMaxMs: number
  /** Not late while bytes of it came within this long, unless it takes `slow` times longer than what counts as late. */
  quietMs: number
  slow: number
  /** A block of which nothing came for this long is asked of another peer instead, and the first one has failed. */
  giveUpMs: number
  /** A seeding range without a new block for this long is asked of peers too. */
  seedLateMs: number
  /** Endgame: when no more than this many blocks are missing, all in flight. */
  endgame: number
  /** Then a second holder is asked where that saves at least this, and half of the time. */
  gainMs: number
}

export const DEFAULT_LIMITS: { ledger: LedgerLimits; peers: PeerLimits; planner: PlannerLimits } = {
  ledger: {
    lessees: 8,
    minLessees: 4,
    maxLessees: 16,
    firstLease: 4 * 2 ** 20,
    minLease: 2 ** 20,
    maxLease: 256 * 2 ** 20,
    leaseMs: 1500,
    ttlMs: 2500,
    maxTtlMs: 60_000,
    refusedMs: 30_000,
    unreachableMs: 2000,
    settleMs: 500,
    rumourMs: 4000,
    quietMs: 400,
    strandedMs: 5000,
    doubtMs: 60_000,
    tries: 3,
    silentMs: 5000,
    holders: 24,
    cuts: 512,
    blocks: 2 ** 22,
  },
  peers: {
    minBudget: 2 ** 20,
    maxBudget: 8 * 2 ** 20,
    total: 24 * 2 ** 20,
    rate: 12.5e6,
    latencyMs: 10,
    backoffMs: 250,
    maxBackoffMs: 60_000,
    corruptMs: 600_000,
    peers: 4096,
  },
  planner: {
    ahead: 6,
    copies: 3,
    lateMs: 300,
    readerLateMs: 150,
    readerMaxMs: 2000,
    quietMs: 150,
    slow: 4,
    giveUpMs: 3000,
    seedLateMs: 1000,
    endgame: 8,
    gainMs: 25,
  },
}
