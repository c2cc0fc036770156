import type { Digest } from '../base/index.ts'
import type { PeerId, Priority } from '../scheduler/types.ts'
import type { SharedRecords } from './records/types.ts'
import type { Storing } from './storing/types.ts'

export type { SharedRecord, SharedRecords, Stamp } from './records/types.ts'
export type { Repaired, StoredBlob, StoredImage, StoredState, Storing } from './storing/types.ts'
export type { PeerId, Priority }

/** Suspect: did not answer, may still refute it. Left: said goodbye. */
export type MemberState = 'alive' | 'suspect' | 'dead' | 'left'

export interface Member {
  id: PeerId
  name: string
  site: string
  /** Multiaddrs without /p2p. */
  addrs: string[]
  state: MemberState
  /** Raised by the member itself to refute a suspicion; the higher one wins. */
  incarnation: number
  /** HOST:PORT of its registry and API where they are not on loopback only. */
  registry?: string
  api?: string
}

export interface Membership {
  readonly self: Member
  /** All that are known, of every site, the dead included, self first. */
  list(): Member[]
  /** Alive or suspect members of this node's site, self included, sorted by ID. */
  site(): Member[]
  find(nameOrId: string): Member | undefined
  /** Called after any change of the table. Returns the unsubscriber. */
  onChange(listener: () => void): () => void
  /** Somebody's talk with the peer failed: check it now instead of at its turn. */
  doubt(id: PeerId): void
  /** Resolves when the first contact with a bootstrap address succeeded or all were tried. */
  readonly settled: Promise<void>
}

export type RpcHandler = (peer: PeerId, body: unknown, signal: AbortSignal) => Promise<unknown>

/** Requests and notes between admitted peers, CBOR over one long-lived stream a peer. */
export interface Rpc {
  /** @throws PEER_GONE | TIMEOUT | the peer's own ShoalError code */
  request(
    peer: PeerId,
    method: string,
    body: unknown,
    options: { signal?: AbortSignal; timeoutMs: number },
  ): Promise<unknown>
  /** One way, best effort; never throws. */
  notify(peer: PeerId, method: string, body: unknown): void
  /** `body` is untrusted: the handler checks its shape. */
  handle(method: string, handler: RpcHandler): void
}

export interface ExchangeTotals {
  sent: number
  received: number
}

/** Blocks between admitted peers. */
export interface Exchange {
  /**
   * A block's bytes as the peer sent them: NOT verified. `onBytes` hears of each part as it comes.
   * @throws BLOCK_MISSING (the peer has it not) | PEER_GONE | TIMEOUT (nothing came for `stallMs`) | ABORTED
   */
  fetch(
    peer: PeerId,
    cid: string,
    options: {
      length: number
      priority: Priority
      signal: AbortSignal
      stallMs: number
      into?: () => Buffer
      onBytes?: (count: number) => void
    },
  ): Promise<Buffer>
  totals(peer?: PeerId): ExchangeTotals
  close(): Promise<void>
}

/** Where a blob can be had from upstream, and with whose rights; made by the proxy, called by the manager under a lease. */
export interface Origin {
  /** `HOST/REPOSITORY`, for logs, status and other nodes. */
  label: string
  /**
   * Bytes `start … end` (exclusive; undefined: to the end). The body throws on truncation and stalls. Retries and
   * credentials are the origin's affair; what it throws is final for now.
   * @throws NOT_FOUND | DENIED | UNAUTHORIZED | UPSTREAM_UNREACHABLE | UPSTREAM_STATUS
   */
  fetch(range: { start: number; end: number | undefined }, signal: AbortSignal): Promise<OriginAnswer>
}

export interface OriginAnswer {
  /** First byte's offset: `start` as asked, or 0 when upstream ignores ranges. */
  start: number
  /** The blob's whole size, undefined where upstream does not say. */
  size: number | undefined
  /** False when upstream ignored the range and sent everything. */
  ranged: boolean
  mediaType: string | undefined
  /** A chunk is valid until the next one is asked for. */
  body: AsyncIterable<Uint8Array>
}

/** Bytes by where they came from. */
export interface Sources {
  local: number
  peers: number
  upstream: number
}

/** A blob that is here or on its way. */
export interface OpenBlob {
  digest: Digest
  /** Undefined only while an upstream without Content-Length is still sending. */
  size: number | undefined
  mediaType: string | undefined
  /**
   * Bytes `start … end` (exclusive), in order, as they come. The chunks are valid until the next one is asked for. The
   * blob's last block is given only after the whole digest was verified. @throws DIGEST_MISMATCH | UPSTREAM_… | ABORTED
   */
  read(range: { start: number; end: number | undefined }, signal: AbortSignal): AsyncIterable<Uint8Array>
  /** What this opening's bytes came from so far (`local`: was here before). */
  sources(): Sources
  /** Resolves when the whole blob is here and verified. */
  done: Promise<void>
  close(): void
}

export interface TaskStatus {
  digest: Digest
  label: string
  size: number | undefined
  bytesHere: number
  sources: Sources
  coordinator: PeerId
  peers: number
  leases: number
  readers: number
  priority: Priority
  /** ms since the epoch. */
  startedAt: number
  state: 'running' | 'done' | 'failed'
  error?: string
}

export type ManagerEvent = { type: 'task'; task: TaskStatus } | { type: 'members'; members: Member[] }

/** Small facts shared in a site by the nodes that come first in rendezvous order of the key; the newest value wins. */
export interface Hints {
  publish(key: string, value: unknown): void
  /** Values that neighbours hold for the key, the newest first; [] when nobody has any or answers in time. */
  lookup(key: string, signal: AbortSignal): Promise<{ value: unknown; at: number; from: PeerId }[]>
}

/**
 * Takes a blob that a client brought into the store, cut and signed like one from upstream, and announces it; false if it was whole
 * here before. `chunks` is called when its turn has come; a chunk is valid until the next one is asked for.
 * @throws DIGEST_MISMATCH | STORE_FULL | what `chunks` throws; what was written is taken out again
 */
export type Ingest = (blob: {
  digest: Digest
  size: number
  mediaType?: string
  chunks: () => AsyncIterable<Uint8Array>
  signal: AbortSignal
}) => Promise<boolean>

/** What a node can prove and keep secret with its key; a peer ID is the public half of it. */
export interface NodeIdentity {
  /** Ed25519, 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array
  /** True when `signature` is the peer's over these bytes; false for anything else, malformed peer IDs included. */
  verify(peer: PeerId, bytes: Uint8Array, signature: Uint8Array): boolean
  /** A few bytes that only this peer can open, and only for the same `context`. @throws NAME_INVALID for what is no peer ID */
  seal(peer: PeerId, plain: Uint8Array, context: string): Uint8Array
  /** Undefined for what was not sealed for this node and context, or was changed since. */
  open(sealed: Uint8Array, context: string): Uint8Array | undefined
}

/** The distribution manager: the only thing the proxy and the integrations talk to. */
export interface Manager {
  readonly self: Member
  readonly identity: NodeIdentity
  readonly members: Membership
  readonly rpc: Rpc
  readonly hints: Hints
  readonly records: SharedRecords
  readonly storing: Storing
  /**
   * Opens a task for the blob or joins the one under way; resolves once its size is known or bytes are there.
   * @throws NOT_FOUND | DENIED | UNAUTHORIZED | UPSTREAM_UNREACHABLE | UPSTREAM_STATUS | STORE_FULL
   */
  open(request: {
    digest: Digest
    origin: Origin
    size?: number
    mediaType?: string
    priority: Priority
    signal: AbortSignal
  }): Promise<OpenBlob>
  readonly ingest: Ingest
  /** A blob's bytes from nodes of other sites that have it whole, block by block and verified; none has it: UPSTREAM_UNREACHABLE. */
  elsewhere(digest: Digest): Origin
  /** True when the whole verified blob is on this disk. */
  holds(digest: Digest): Promise<boolean>
  /**
   * Lets the blob lie in a file that is not Shoal's (see BlockStore.borrow), and tells the site that it is here whole. False when the file
   * has other bytes. @throws BUSY while a task brings the blob here, or somebody holds it: neither is disturbed | ABORTED | STORE_FULL
   */
  borrow(
    digest: Digest,
    path: string,
    options: { bytesPerSecond?: number; signal: AbortSignal },
  ): Promise<boolean>
  /** The file is gone: the site hears what is left of the blob here. */
  giveBack(digest: Digest): Promise<void>
  tasks(): TaskStatus[]
  peers(): PeerStatus[]
  totals(): { peersIn: number; peersOut: number; upstream: number; local: number }
  onEvent(listener: (event: ManagerEvent) => void): () => void
  close(): Promise<void>
}

export interface PeerStatus {
  member: Member
  connected: boolean
  rate: number
  latencyMs: number
  sent: number
  received: number
  shunned: boolean
}
