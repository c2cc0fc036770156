import { formatBytes, ShoalError } from '../base/index.ts'
import type { BlobEntry } from './blob-table.ts'
import { asStoreError, isNoSpace, storeFull } from './faults.ts'
import { createMutex } from './locks.ts'
import type { Removal } from './removal.ts'
import { SPARE_BYTES } from './spare.ts'
import type { StoreState } from './state.ts'

/** Eviction goes on until this part of the quota is left in use, so that it does not run for every block. */
const LOW_WATERMARK = 0.9
/** The part of the store that goes at once when the disk is full. */
const DISK_FULL_PART = 0.1

export interface Evicted {
  blobs: number
  bytes: number
}

/** Room for blocks: the quota's, and the disk's. */
export interface Room {
  /**
   * Sets room aside in the quota; evicts for it. The returned function gives back what has not become a block.
   * @throws STORE_FULL
   */
  claim(bytes: number, signal?: AbortSignal): Promise<() => void>
  /** Runs `work`; when the disk has no room for it, evicts and runs it once more. @throws STORE_FULL */
  withDisk<T>(bytes: number, work: () => Promise<T>, signal?: AbortSignal): Promise<T>
  /** Evicts down to the low watermark. */
  collect(signal?: AbortSignal): Promise<Evicted>
}

export function createRoom({
  state,
  removal,
  quota,
}: {
  state: StoreState
  removal: Removal
  quota: number | undefined
}): Room {
  const { blobs, totals, spare, dir, log } = state
  const evictions = createMutex()
  /** Counts evictions that freed something, so that many who find the disk full at once evict for one. */
  let round = 0
  let claimed = 0

  /** Nothing is gained by giving up what lies in a borrowed file. */
  const evictable = (entry: BlobEntry): boolean =>
    !entry.pinned && entry.borrowedFrom === undefined && !blobs.held(entry.digest)
  const fits = (bytes: number): boolean => quota === undefined || totals.bytes + claimed + bytes <= quota

  async function evict(enough: (freed: number) => boolean, signal?: AbortSignal): Promise<Evicted> {
    const evicted = { blobs: 0, bytes: 0 }
    const candidates = blobs
      .all()
      .filter((entry) => entry.bytesHere > 0 && evictable(entry))
      .sort((a, b) => a.usedAt - b.usedAt)
    for (const entry of candidates) {
      if (enough(evicted.bytes)) break
      if (!evictable(entry)) continue
      evicted.bytes += await removal.blob(entry.digest, () => !evictable(entry), signal)
      evicted.blobs++
    }
    if (evicted.bytes > 0) round++
    if (evicted.blobs > 0) {
      log.info({ ...evicted, left: totals.bytes, quota }, 'evicted the least recently used blobs')
    }
    return evicted
  }

  const downTo = (limit: number, coming: number): ((freed: number) => boolean) => {
    return () => totals.bytes + claimed + coming <= Math.max(limit, coming)
  }

  return {
    async claim(bytes, signal) {
      if (quota === undefined) return () => {}
      while (!fits(bytes)) {
        const evicted =
          bytes > quota
            ? 0
            : await evictions.run(async () => {
                if (fits(bytes)) return 1
                return (await evict(downTo(quota * LOW_WATERMARK, bytes), signal)).bytes
              })
        if (evicted > 0 || fits(bytes)) continue
        throw new ShoalError(
          'STORE_FULL',
          `the quota of ${formatBytes(quota)} is used up by blobs that are in use or pinned`,
          { details: { quota, used: totals.bytes } },
        )
      }
      claimed += bytes
      let given = false
      return () => {
        if (given) return
        given = true
        claimed -= bytes
      }
    },
    async withDisk(bytes, work, signal) {
      const seen = round
      try {
        return await work()
      } catch (error) {
        if (!isNoSpace(error)) throw asStoreError(error, dir)
        log.debug({ dir, err: error }, 'the disk is full')
        const freed = await evictions.run(async () => {
          if (round !== seen) return true
          // The spare file comes first when room is there again.
          const goal = Math.max(bytes + SPARE_BYTES, totals.bytes * DISK_FULL_PART)
          return (await evict((so) => so >= goal, signal)).bytes > 0
        })
        if (!freed) throw storeFull(dir, error)
      }
      try {
        return await work()
      } catch (error) {
        throw asStoreError(error, dir)
      }
    },
    async collect(signal) {
      await spare.ensure()
      if (quota === undefined) return { blobs: 0, bytes: 0 }
      return evictions.run(() => evict(downTo(quota * LOW_WATERMARK, 0), signal))
    },
  }
}
