import { type Digest, ShoalError } from '../base/index.ts'
import { type BlobEntry, newBlob, publicBlob, recordOp } from './blob-table.ts'
import { isNoSpace } from './faults.ts'
import type { Op } from './key-index.ts'
import { afterAll, decodeSegment, segmentsOf } from './keys.ts'
import type { Room } from './room.ts'
import type { StoreState } from './state.ts'
import type { Blob, BlockStore, Segment } from './types.ts'

/** Lazily written entries that go in one batch. */
const FLUSH = 500

export type Facts = Pick<BlockStore, 'blob' | 'blobs' | 'segments' | 'describe' | 'markComplete' | 'pin'> & {
  /** Writes what was only kept in memory so far; false when the disk had no room for it. */
  flush(): Promise<boolean>
  /** One batch of a caller's own. */
  write(ops: Op[], options?: { sync?: boolean }): Promise<void>
}

/** What is known of blobs and segments, beside the bytes themselves. */
export function createFacts({ state, room }: { state: StoreState; room: Room }): Facts {
  const { index, blobs, mutate, now } = state

  /** Waits while segments of the blob are on their way out, so that nothing is said that is not true when it arrives. */
  const settled = async (digest: Digest): Promise<void> => {
    if (blobs.get(digest)?.leaving) await mutate.run(async () => {})
  }

  /** One turn of the mutex that reads, decides and writes; room on the disk is made for it where it can be. */
  const change = (work: () => Promise<void>): Promise<void> => room.withDisk(0, () => mutate.run(work))

  async function amend(entry: BlobEntry, changes: Partial<Blob>): Promise<void> {
    await index.write([recordOp(entry, changes)])
    Object.assign(entry, changes)
    blobs.add(entry)
  }

  return {
    async blob(digest) {
      await settled(digest)
      const entry = blobs.get(digest)
      return entry && publicBlob(entry)
    },
    async *blobs() {
      for (const entry of blobs.all()) yield publicBlob(entry)
    },
    async segments(digest): Promise<Segment[]> {
      await settled(digest)
      const prefix = segmentsOf(digest)
      const entries = await index.entries({ from: prefix, to: afterAll(prefix) })
      return entries.map(([key, value]) => decodeSegment(Number(key.slice(prefix.length)), value))
    },
    describe: (digest, { size, mediaType }) =>
      change(async () => {
        const entry = blobs.get(digest) ?? newBlob(digest, now())
        const changes: Partial<Blob> = { usedAt: now() }
        // The digest of a complete blob was verified over exactly that many bytes.
        if (size !== undefined && !entry.complete) changes.size = size
        if (mediaType !== undefined) changes.mediaType = mediaType
        const same = changes.size === undefined || changes.size === entry.size
        if (blobs.get(digest) && same && (mediaType ?? entry.mediaType) === entry.mediaType)
          blobs.touch(digest)
        else await amend(entry, changes)
      }),
    markComplete: (digest) =>
      change(async () => {
        const entry = blobs.get(digest)
        const size = entry?.size ?? entry?.bytesHere
        if (entry === undefined || size === undefined || entry.bytesHere < size) {
          throw new ShoalError('BLOCK_MISSING', `blob ${digest} is not all here any more`, {
            details: { digest, size, bytesHere: entry?.bytesHere },
          })
        }
        if (!entry.complete) await amend(entry, { size, complete: true, usedAt: now() })
      }),
    pin: (digest, pinned) =>
      change(async () => {
        const entry = blobs.get(digest)
        if (entry === undefined && !pinned) return
        if (entry?.pinned !== pinned) await amend(entry ?? newBlob(digest, now()), { pinned })
      }),
    async flush() {
      const stale = blobs.all().filter((entry) => entry.stale)
      for (let i = 0; i < stale.length; i += FLUSH) {
        try {
          await mutate.run(async () => {
            // Those that went in the meantime must not come back.
            const batch = stale.slice(i, i + FLUSH).filter((entry) => blobs.get(entry.digest) === entry)
            for (const entry of batch) entry.stale = false
            await index.write(batch.map((entry) => recordOp(entry))).catch((error: unknown) => {
              for (const entry of batch) entry.stale = true
              throw error
            })
          })
        } catch (error) {
          if (isNoSpace(error)) return false
          throw error
        }
      }
      return true
    },
    write: (ops, options) => change(() => index.write(ops, options)),
  }
}
