import type { Digest } from '../base/index.ts'

/** A block's name: CIDv1, raw, sha2-256, base32 (`bafkrei…`). */
export type Cid = string

/** Where every node cuts a blob that comes from upstream: at multiples of this many bytes. The last block is shorter. */
export const BLOCK_SIZE = 1024 * 1024

/** A part of a blob and the block that holds it. The seeder is the node that cut it from upstream's bytes and signed it. */
export interface Segment {
  cid: Cid
  offset: number
  length: number
  seeder?: string
  signature?: Uint8Array
}

export interface Blob {
  digest: Digest
  /** Bytes; undefined until upstream or a neighbour said so. */
  size: number | undefined
  mediaType: string | undefined
  /** Every block was here and the whole blob's digest was verified. A lost block makes it false again. */
  complete: boolean
  pinned: boolean
  /** Milliseconds since the epoch. */
  usedAt: number
  /** Bytes of it on this disk. */
  bytesHere: number
  /** Of these the ones that are kept. */
  bytesKept: number
  /** Path of the file, not ours, that its blocks are ranges of; undefined: they have files of their own. */
  borrowedFrom: string | undefined
  /** Own files of it may be left that `borrow` would move there; false once it has looked, until marks go. */
  mayMove: boolean
}

export interface Usage {
  /** Of the store's own block files; the quota counts these alone. */
  bytes: number
  blocks: number
  /** Bytes of blocks that lie in files which the store does not own. */
  borrowed: number
  /** Undefined: no limit but the disk's. */
  quota: number | undefined
}

export interface BorrowOptions {
  /** Vouches for a segment that the store did not have, or had unsigned. */
  sign: (segment: Segment) => { seeder: string; signature: Uint8Array }
  /** How fast the file is read; absent: as fast as it goes. */
  bytesPerSecond?: number
  signal: AbortSignal
}

/** How a scrub went, or goes: blocks and bytes that were looked at, and how many of the blocks were bad. */
export interface Scrubbed {
  blocks: number
  bytes: number
  bad: number
}

/** A small table of JSON values in the store's index, for what other rooms must remember over a restart. */
export interface Records<T> {
  get(key: string): Promise<T | undefined>
  /**
   * With `sync` it is on the disk itself when this resolves. Without, the system has it: that outlives the death of the process, not
   * that of the machine.
   */
  put(key: string, value: T, options?: { sync?: boolean }): Promise<void>
  delete(key: string): Promise<void>
  entries(prefix?: string): AsyncIterable<[key: string, value: T]>
}

/**
 * Blocks on disk and the index of what they make up. Every byte that leaves it was verified against its CID; a block that
 * fails is dropped, its blob is no longer complete, and the listeners hear of it. Safe against kill -9 at any point:
 * what the index names is on disk or is found missing on read, what it does not name is swept at the next start.
 */
export interface BlockStore {
  /**
   * Stores `bytes` as the block of `digest` at `offset`, and resolves to its CID once it is on disk and indexed. May evict.
   * `bytes` is not kept: the caller may reuse the buffer when the promise has settled.
   * @throws BLOCK_MISMATCH when `expect` is given and the bytes have another hash (nothing is stored)
   * @throws STORE_FULL when neither disk nor quota has room and nothing can be evicted (the store stays sound)
   */
  putSegment(
    digest: Digest,
    segment: {
      offset: number
      expect?: Cid
      seeder?: string
      signature?: Uint8Array
      /** Called with the CID before the segment is indexed: a seeder can only sign then. */
      sign?: (cid: Cid) => { seeder: string; signature: Uint8Array }
    },
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<Cid>
  /**
   * A block's verified bytes; in `into` (from its start) where that is given and large enough, else in a new buffer.
   * @throws BLOCK_MISSING | BLOCK_CORRUPT (dropped by then)
   */
  read(cid: Cid, options?: { into?: Buffer; signal?: AbortSignal }): Promise<Buffer>
  has(cid: Cid): Promise<boolean>

  /** What is known of a blob, undefined if nothing is. */
  blob(digest: Digest): Promise<Blob | undefined>
  blobs(): AsyncIterable<Blob>
  /** The segments whose blocks are indexed here, by offset. */
  segments(digest: Digest): Promise<Segment[]>
  /** Creates or amends what is known of a blob. */
  describe(digest: Digest, facts: { size?: number; mediaType?: string }): Promise<void>
  /**
   * Reads the file once. If its bytes have the digest, the blob is complete and its blocks are ranges of the file from then on: what
   * own files had of it goes. But blocks that are kept, or that a pinned or held blob needs too, stay in own files, and kept ones that were
   * not here are copied. A pinned blob is left as it is. Once more for the same file, it moves what was left and need not stay any more.
   * The file is never written or removed, and may change or go at any time; every read is verified as ever.
   * False when the bytes are others', or changed meanwhile; what was borrowed from that file is given back then.
   * @throws BUSY while the blob is held | ABORTED | STORE_FULL (no room for the index, or for what is kept; the rest is borrowed) | the file system's errors
   */
  borrow(digest: Digest, path: string, options: BorrowOptions): Promise<boolean>
  /** The file is gone or will be: the segments that it alone holds leave, of this blob and of others. Nothing that is kept is among them. */
  giveBack(digest: Digest): Promise<void>
  /**
   * Copies what of the blob lies in borrowed files into own ones, where it stays while the blob is held: for who acknowledges something and
   * has neither pinned nor kept it yet. @throws STORE_FULL
   */
  own(digest: Digest, signal: AbortSignal): Promise<void>
  /** The caller has verified the whole blob's digest. */
  markComplete(digest: Digest): Promise<void>
  /** Forgets one segment (a block that proved wrong), and its block where nothing else needs it. */
  dropSegment(digest: Digest, offset: number): Promise<void>
  /** Forgets a blob; its blocks go where no other blob needs them. */
  remove(digest: Digest): Promise<void>
  /**
   * A pinned blob is not evicted, and does not depend on files of others: what is borrowed of it is copied. What is lost by then,
   * `onDamaged` tells. @throws STORE_FULL (it is pinned all the same)
   */
  pin(digest: Digest, pinned: boolean): Promise<void>
  /**
   * These offsets of the blob are this node's share of a stored image: eviction, collect and trim leave their segments alone.
   * Replaces the set given before; [] lets all go. Survives restarts; offsets whose block is not here (yet, or any more) are
   * remembered too. Blocks that lie in borrowed files are copied into own ones first; where one finds no room, the set stays as it was.
   * @throws RANGE_INVALID | STORE_FULL
   */
  keep(digest: Digest, offsets: readonly number[]): Promise<void>
  /** The offsets that are kept, in order. */
  kept(digest: Digest): Promise<number[]>
  /** Blobs of which something is kept. */
  keptBlobs(): AsyncIterable<Digest>
  /** Removes what is neither kept nor borrowed of a blob that is neither pinned nor held; resolves to the bytes freed. */
  trim(digest: Digest, signal?: AbortSignal): Promise<number>
  /** Marks a blob in use until the returned function is called: it is not evicted, and counts as used now. */
  hold(digest: Digest): () => void
  usage(): Usage
  /**
   * Evicts the least recently used until the quota's low watermark and the floor of free disk space hold; with `all`,
   * everything that is neither kept, borrowed, pinned nor held. Resolves to what went: blobs that lost something, and bytes freed.
   */
  collect(signal?: AbortSignal, options?: { all?: boolean }): Promise<{ blobs: number; bytes: number }>
  /**
   * Reads and verifies every block, borrowed ones in their files, at `bytesPerSecond` at most. Bad ones are dropped as by `read`: the
   * listeners hear of them. What lies in a borrowed file that is gone is given back, and not bad. Blocks that come or go meanwhile may or may not be looked at. @throws ABORTED
   */
  scrub(options: {
    bytesPerSecond: number
    signal: AbortSignal
    /** Called after each block; `total`: bytes that there were at the beginning. */
    onProgress?: (progress: Scrubbed & { total: number }) => void
  }): Promise<Scrubbed>
  /** Called when segments leave (evicted, corrupt, removed), so that they are no longer announced. Returns the unsubscriber. */
  onDropped(listener: (digest: Digest, offsets: number[]) => void): () => void
  /**
   * Called when segments were lost that nobody meant to give up, after onDropped: found bad, or in a file that another blob was
   * borrowed from, or of a pinned blob. With what was known of their blob before.
   */
  onDamaged(listener: (blob: Blob, offsets: number[]) => void): () => void
  records<T>(name: string): Records<T>
  close(): Promise<void>
}
