import { statfsSync } from 'node:fs'
import { formatBytes, ShoalError } from '../base/index.ts'
import type { BlobEntry } from './blob-table.ts'
import { asStoreError, isNoSpace, storeFull } from './faults.ts'
import { createMutex } from './locks.ts'
import type { Removal } from './removal.ts'
import { SPARE_BYTES } from './spare.ts'
import type { StoreState } from './state.ts'

/** The part of the store that goes at once when the disk is full, so that eviction does not run for every block. */
const DISK_FULL_PART = 0.1

export interface RoomLimits {
  /** Bytes of blocks at most; undefined: as many as the disk takes. */
  quota: number | undefined
  /** Eviction goes on until this part of the quota is left in use, so that it does not run for every block. */
  quotaLow: number
  /** Bytes that the disk shall have free, whoever fills it; 0: none. */
  minFree: number
}

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
  /** Evicts down to the low watermark and the floor of free space; with `all`, whatever may go. */
  collect(signal?: AbortSignal, options?: { all?: boolean }): Promise<Evicted>
  /** The same, but only when quota or floor do not hold: somebody else may have filled the disk. */
  relieve(signal: AbortSignal): Promise<void>
}

export function createRoom({
  state,
  removal,
  limits: { quota, quotaLow, minFree },
}: {
  state: StoreState
  removal: Removal
  limits: RoomLimits
}): Room {
  const { blobs, totals, spare, dir, log } = state
  const evictions = createMutex()
  /** Counts evictions that freed something, so that many who find the disk full at once evict for one. */
  let round = 0
  let claimed = 0

  const evictable = (entry: BlobEntry): boolean => !entry.pinned && !blobs.held(entry.digest)
  const inQuota = (bytes: number): boolean => quota === undefined || totals.bytes + claimed + bytes <= quota

  /** Bytes that the disk lacks to its floor when so many more have come. */
  function lack(coming: number): number {
    if (minFree === 0) return 0
    const { bavail, bsize } = statfsSync(dir)
    return Math.max(0, minFree + claimed + coming - bavail * bsize)
  }

  async function evict(enough: (freed: number) => boolean, signal?: AbortSignal): Promise<Evicted> {
    const evicted = { blobs: 0, bytes: 0 }
    const candidates = blobs
      .all()
      .filter((entry) => entry.bytesHere > entry.bytesKept && evictable(entry))
      .sort((a, b) => a.usedAt - b.usedAt)
    for (const entry of candidates) {
      if (enough(evicted.bytes)) break
      if (!evictable(entry)) continue
      evicted.bytes += await removal.unkept(entry.digest, () => !evictable(entry), signal)
      evicted.blobs++
    }
    if (evicted.bytes > 0) round++
    if (evicted.blobs > 0) {
      log.info({ ...evicted, left: totals.bytes, quota }, 'evicted the least recently used blobs')
    }
    return evicted
  }

  /** Down to the low watermark, and what the disk lacked with a part of the store on top: some disks free bytes late. */
  function goal(coming: number): (freed: number) => boolean {
    const low = quota === undefined ? Number.POSITIVE_INFINITY : Math.max(quota * quotaLow, coming)
    const lacking = lack(coming)
    const more = lacking > 0 ? lacking + totals.bytes * DISK_FULL_PART : 0
    return (freed) => totals.bytes + claimed + coming <= low && freed >= more
  }

  function tooFull(bytes: number): ShoalError {
    const why =
      quota !== undefined && !inQuota(bytes)
        ? `the quota of ${formatBytes(quota)} is used up by blobs`
        : `the disk has less than ${formatBytes(minFree)} free, and what is here are blobs`
    return new ShoalError('STORE_FULL', `${why} that are in use, kept or pinned`, {
      details: { quota, minFree, used: totals.bytes },
    })
  }

  return {
    async claim(bytes, signal) {
      if (quota === undefined && minFree === 0) return () => {}
      let freed = 0
      // What an eviction freed counts at once for the floor, though the disk may say so only later.
      const fits = (): boolean => inQuota(bytes) && lack(bytes) <= freed
      while (!fits()) {
        const evicted = await evictions.run(async () => {
          if (fits()) return 0
          if (quota !== undefined && bytes > quota) return 0
          return (await evict(goal(bytes), signal)).bytes
        })
        freed += evicted
        if (evicted === 0 && !fits()) throw tooFull(bytes)
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
    async collect(signal, { all = false } = {}) {
      await spare.ensure()
      return evictions.run(() => evict(all ? () => false : goal(0), signal))
    },
    async relieve(signal) {
      if (!inQuota(0) || lack(0) > 0) await evictions.run(() => evict(goal(0), signal))
    },
  }
}
