/** A peer ID in its text form (base58btc, `12D3Koo…`). */
export type PeerId = string

/** What the planner and the ledger need to know of a block: where it is in the blob, and its name. */
export interface Cut {
  /** Offset divided by the block size; every node cuts at the same places. */
  index: number
  cid: string
  length: number
  /** Who cut it from upstream's bytes, and that node's signature over it. */
  seeder: PeerId
  signature: Uint8Array
}

/** The right to fetch blocks `start … start + count - 1` of a blob from upstream; `count` may be Infinity: to the end. */
export interface Lease {
  id: string
  start: number
  count: number
  /** Milliseconds; every reported block of the range renews it. */
  ttlMs: number
}

/** A node asks for a task (pulling), or only says what it has. Bitfields: bit i of byte i >> 3, least significant first. */
export interface DispatchRequest {
  peer: PeerId
  /** `version` of the last answer that the asker applied; 0 if none from this coordinator. */
  version: number
  have: Uint8Array
  size?: number
  mediaType?: string
  /** Cuts that this coordinator may not have seen: all that the asker knows when `version` is 0. */
  cuts: Cut[]
  pulling: boolean
  /** Present when the asker could fetch from upstream; bytes a second it measured there, 0 when it does not know yet. */
  seed?: { rate: number }
  /** Leases that it gives back, with the blocks it did not deliver, and why. */
  released?: { id: string; reason: ReleaseReason; detail?: string }[]
}

/**
 * Why a lease came back. `done`: all delivered. `idle`: nobody waits any more. The others say what upstream did:
 * `no-range` (it ignores ranges: only a lease from 0 to the end makes sense), `missing` (404), `denied` (401, 403),
 * `unreachable` (network, 5xx, 429 or stalls beyond the retries).
 */
export type ReleaseReason = 'done' | 'idle' | 'no-range' | 'missing' | 'denied' | 'unreachable'

export interface DispatchAnswer {
  version: number
  size?: number
  mediaType?: string
  /** Cuts new since the asker's version. */
  cuts: Cut[]
  /** Holders and fellow pullers to talk to, a sample where there are many; never the asker. */
  holders: { peer: PeerId; have: Uint8Array; pulling: boolean }[]
  /** All live leases of the asker; one that it holds and does not see here was revoked. */
  leases: Lease[]
  /** True while somebody holds a lease: bytes are to come. */
  seeding: boolean
  /** Set when nobody may or can seed what is missing: the answer upstream gave those who tried. */
  refusal?: { reason: ReleaseReason; detail?: string }
  /** Ask again after this many milliseconds (sooner when something of its own changed). */
  retryMs: number
}

/** The coordinator's book of one blob: sizes, cuts, holders, leases. Pure but for its own state: time comes in as `now`. */
export interface Ledger {
  dispatch(request: DispatchRequest, now: number): DispatchAnswer
  /** A peer died or left: its leases are free again, its blocks no longer count. */
  forget(peer: PeerId): void
  /** Blocks that a peer says it no longer has (bitfield of what it has now). */
  correct(peer: PeerId, have: Uint8Array): void
  /** A cut that proved wrong: it, and all by the same seeder where `shun`, must be seeded again by others. */
  reject(index: number, cid: string, shun: boolean): void
  /** Milliseconds timestamp of the last dispatch, for forgetting idle ledgers. */
  readonly usedAt: number
  /** No holders, pullers or leases are left: nothing would be lost by forgetting it. */
  readonly empty: boolean
  /** Somebody holds every block. */
  readonly complete: boolean
}

/** What is known of a peer's behaviour, common to all tasks of this node. Times in ms, rates in bytes a second. */
export interface PeerBook {
  /** Bytes that may still be asked of the peer now: its budget (bandwidth-delay product, within bounds) less what is in flight. */
  room(peer: PeerId, priority: Priority, now: number): number
  /** Bytes in flight from all peers. */
  readonly inFlight: number
  asked(peer: PeerId, bytes: number, now: number): void
  /** A block came whole; `startedAt` is when it was asked. */
  arrived(peer: PeerId, bytes: number, startedAt: number, now: number): void
  failed(peer: PeerId, bytes: number, reason: FetchFailure, now: number): void
  /** Cancelled by us, or no fault of the peer's. `part` is what came of it, where that says how slow the peer is. */
  released(peer: PeerId, bytes: number, part?: { bytes: number; startedAt: number; now: number }): void
  /** Estimated ms until `bytes` more would be here if asked now. */
  expectMs(peer: PeerId, bytes: number): number
  /** True while nothing should be asked of the peer: it failed often or lied. */
  shunned(peer: PeerId, now: number): boolean
  forget(peer: PeerId): void
  describe(peer: PeerId): {
    rate: number
    latencyMs: number
    inFlight: number
    failures: number
    shunnedUntil: number
  }
}

export type Priority = 'client' | 'preheat'
/** `missing`: said that it has not what it had claimed. `corrupt`: other bytes than the CID names. */
export type FetchFailure = 'missing' | 'corrupt' | 'timeout' | 'gone'

export type Action =
  | { type: 'ask'; index: number; peer: PeerId; bytes: number; hedge: boolean }
  | { type: 'cancel'; index: number; peer: PeerId }

/** One task's choice of blocks and sources. It keeps the facts it is told, decides in `next`, and does nothing itself. */
export interface Planner {
  /** Bytes of the blob, once known. Everything else may be told before. */
  size(bytes: number): void
  /** Block is here (from wherever), or was lost again. */
  got(index: number): void
  lost(index: number): void
  /** The block's CID is known, so that it can be asked for; `forgetCut`: it proved wrong. */
  known(index: number): void
  forgetCut(index: number): void
  /** What a peer has: the whole truth, or one more block, or the peer is gone. */
  peer(id: PeerId, have: Uint8Array): void
  peerHas(id: PeerId, index: number): void
  dropPeer(id: PeerId): void
  /** Blocks that this node itself is fetching from upstream: not asked of peers. Replaces the set given before. */
  seeding(ranges: { start: number; count: number }[]): void
  /** Where a reader is: the index of the next block it needs; undefined when it is gone. */
  reader(id: number, next: number | undefined): void
  /** Limits choices to blocks within `blocks` of a reader (a full disk: nothing can be kept); undefined lifts it. */
  window(blocks: number | undefined): void
  /** Results of an `ask`. The planner tells the PeerBook. `progress`: so many more bytes of it came. */
  progress(index: number, peer: PeerId, bytes: number, now: number): void
  arrived(index: number, peer: PeerId, now: number): Action[]
  failed(index: number, peer: PeerId, reason: FetchFailure, now: number): void
  /** What to ask and cancel now. Each `ask` counts as in flight from here on. */
  next(now: number): Action[]
  /** When `next` should run again although nothing happened (a hedge, a back-off), undefined if never. */
  wakeAt(now: number): number | undefined
}
