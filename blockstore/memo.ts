import type { Digest } from '../base/index.ts'
import type { Stamp } from './files.ts'
import type { Cid } from './types.ts'

/**
 * Which block files this process has hashed (or written) and what they looked like then. While a file looks the same, its
 * bytes are not hashed again; any write to it, or another file in its place, changes the stamp.
 */
export interface VerifiedMemo {
  /** The blob that brought the block, when the file is known to be good; undefined: hash it. */
  ownerIfVerified(cid: Cid, stamp: Stamp): Digest | undefined
  verified(cid: Cid, stamp: Stamp, owner: Digest): void
  /** The file was written or read through a moment ago: its bytes are still in the kernel's memory. */
  isFresh(cid: Cid): boolean
  forget(cid: Cid): void
}

const FRESH_MS = 10_000

/**
 * @param capacity entries kept (about 300 bytes each); the least recently used go first
 * @param maxAgeMs after this a file is hashed again although it looks the same: a disk may rot without a new mtime
 */
export function createVerifiedMemo({
  capacity,
  maxAgeMs,
  now,
}: {
  capacity: number
  maxAgeMs: number
  now: () => number
}): VerifiedMemo {
  // A Map keeps insertion order: what is used is put in anew, so the first entry is the one unused for longest.
  const entries = new Map<Cid, { print: string; owner: Digest; at: number }>()
  return {
    ownerIfVerified(cid, stamp) {
      const entry = entries.get(cid)
      if (entry === undefined) return undefined
      entries.delete(cid)
      if (entry.print !== stamp.print || now() - entry.at > maxAgeMs) return undefined
      entries.set(cid, entry)
      return entry.owner
    },
    verified(cid, stamp, owner) {
      entries.delete(cid)
      if (stamp.print === undefined) return
      entries.set(cid, { print: stamp.print, owner, at: now() })
      if (entries.size <= capacity) return
      for (const oldest of entries.keys()) {
        entries.delete(oldest)
        break
      }
    },
    isFresh: (cid) => now() - (entries.get(cid)?.at ?? Number.NEGATIVE_INFINITY) < FRESH_MS,
    forget(cid) {
      entries.delete(cid)
    },
  }
}
