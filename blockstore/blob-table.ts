import type { Digest } from '../base/index.ts'
import type { Op } from './key-index.ts'
import { blobKey } from './keys.ts'
import type { Blob } from './types.ts'

/** A blob in memory: its record, and what has not been written to it yet. */
export interface BlobEntry extends Blob {
  /** How many offsets are marked as kept. Exact in the record, as one batch writes both. */
  marks: number
  /** `usedAt`, `bytesHere` or `bytesKept` changed since the record was written; they are written lazily. */
  stale: boolean
  /** Segments of it are being removed right now: what is to be said of it, is to be said when they are gone. */
  leaving: boolean
}

/** All blobs that are known. There are thousands where there are hundreds of thousands of blocks: memory has room for them. */
export interface BlobTable {
  get(digest: Digest): BlobEntry | undefined
  /** Takes in an entry that is in the index. */
  add(entry: BlobEntry): void
  delete(digest: Digest): void
  all(): BlobEntry[]
  /** Counts as used now. */
  touch(digest: Digest): void
  /** In use until the returned function is called, whether the blob is known yet or not. */
  hold(digest: Digest): () => void
  held(digest: Digest): boolean
}

export function createBlobTable({ now }: { now: () => number }): BlobTable {
  const entries = new Map<Digest, BlobEntry>()
  const holds = new Map<Digest, number>()

  function touch(digest: Digest): void {
    const entry = entries.get(digest)
    if (entry === undefined) return
    entry.usedAt = now()
    entry.stale = true
  }

  return {
    get: (digest) => entries.get(digest),
    add(entry) {
      entries.set(entry.digest, entry)
    },
    delete(digest) {
      entries.delete(digest)
    },
    all: () => [...entries.values()],
    touch,
    hold(digest) {
      holds.set(digest, (holds.get(digest) ?? 0) + 1)
      let released = false
      return () => {
        if (released) return
        released = true
        const left = (holds.get(digest) ?? 1) - 1
        if (left === 0) holds.delete(digest)
        else holds.set(digest, left)
      }
    },
    held: (digest) => holds.has(digest),
  }
}

export function newBlob(digest: Digest, usedAt: number): BlobEntry {
  return {
    digest,
    size: undefined,
    mediaType: undefined,
    complete: false,
    pinned: false,
    usedAt,
    bytesHere: 0,
    bytesKept: 0,
    marks: 0,
    borrowedFrom: undefined,
    mayMove: true,
    stale: false,
    leaving: false,
  }
}

/** The write that records the blob, with some fields as they are going to be. */
export function recordOp(entry: BlobEntry, changes: Partial<BlobEntry> = {}): Op {
  const {
    digest: _digest,
    mayMove: _mayMove,
    stale: _stale,
    leaving: _leaving,
    ...lasting
  } = { ...entry, ...changes }
  const value = JSON.stringify(lasting)
  return { type: 'put', key: blobKey(entry.digest), value }
}

export function decodeBlob(digest: Digest, value: string): BlobEntry {
  const stored = JSON.parse(value) as Partial<BlobEntry>
  return { ...newBlob(digest, stored.usedAt ?? 0), ...stored }
}

/** What callers get: a copy, so that nobody changes the table by it. */
export function publicBlob({ marks: _marks, stale: _stale, leaving: _leaving, ...blob }: BlobEntry): Blob {
  return blob
}
