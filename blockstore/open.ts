import { mkdir } from 'node:fs/promises'
import { type Log, ShoalError, silentLog } from '../base/index.ts'
import { createBorrowing } from './borrow.ts'
import { leaveCleanMark, takeCleanMark } from './clean-mark.ts'
import { createFacts } from './facts.ts'
import { asStoreError } from './faults.ts'
import { createKept } from './kept.ts'
import { isDamage } from './key-index.ts'
import { blockKey } from './keys.ts'
import { load } from './load.ts'
import { createMutex } from './locks.ts'
import { createVerifiedMemo } from './memo.ts'
import { createPut } from './put.ts'
import { createRead } from './read.ts'
import { createRecords } from './records.ts'
import { createRedeem } from './redeem.ts'
import { createRemoval } from './removal.ts'
import { createRoom, type RoomLimits } from './room.ts'
import { createScrub } from './scrub.ts'
import type { StoreState } from './state.ts'
import type { BlockStore } from './types.ts'

type DroppedListener = Parameters<BlockStore['onDropped']>[0]
type DamagedListener = Parameters<BlockStore['onDamaged']>[0]

export interface BlockStoreOptions {
  /** The store's directory; made if it is not there. */
  dir: string
  /** Bytes of blocks (not of the index) to keep at most; undefined: as many as the disk takes. */
  quota?: number | undefined
  /** The quota's low watermark, as a part of it: eviction stops there. */
  quotaLow?: number | undefined
  /** Bytes that the disk shall have free, whoever fills it: cache goes until it has. 0: only a full disk makes cache go. */
  minFree?: number | undefined
  log?: Log
  /** Milliseconds since the epoch; for tests of eviction. */
  now?: () => number
  /** How often times of use are written to the index, and the disk's free space is looked at. */
  flushMs?: number
  /** Blocks remembered as verified, at about 300 bytes each: by default those of 4 GiB. 0: every read hashes. */
  memoBlocks?: number
  /** After this a remembered block is hashed again although its file looks the same. */
  memoMs?: number
  signal?: AbortSignal
}

/**
 * Opens or makes the store in a directory. After a crash it first makes disk and index agree: a few seconds per 100,000
 * blocks.
 * @throws STORE_LOCKED (another process has it open) | STORE_FULL (the disk has no room for the index) | STORE_BROKEN | ABORTED
 */
export async function openBlockStore({
  dir,
  quota,
  quotaLow = 0.9,
  minFree = 0,
  log = silentLog(),
  now = Date.now,
  flushMs = 30_000,
  memoBlocks = 8192,
  memoMs = 10 * 60_000,
  signal,
}: BlockStoreOptions): Promise<BlockStore> {
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const loading = { dir, log, now, signal }
    const loaded = await load({ ...loading, repair: false }).catch((error: unknown) => {
      if (!isDamage(error)) throw error
      log.warn({ dir, err: error }, 'the index is damaged: repairing it')
      return load({ ...loading, repair: true })
    })
    const dropped = new Set<DroppedListener>()
    const damaged = new Set<DamagedListener>()
    /** A listener that fails must not stop the others, or what was going on. */
    function tell<A extends unknown[]>(listeners: Set<(...args: A) => void>, ...args: A): void {
      for (const listener of listeners) {
        try {
          listener(...args)
        } catch (error) {
          log.error({ err: error, dir }, 'a listener to lost segments failed')
        }
      }
    }
    const state: StoreState = {
      ...loaded,
      dir,
      memo: createVerifiedMemo({ capacity: memoBlocks, maxAgeMs: memoMs, now }),
      log,
      now,
      mutate: createMutex(),
      untidy: false,
      dropped: (digest, offsets) => tell(dropped, digest, offsets),
      damaged: (blob, offsets) => tell(damaged, blob, offsets),
    }
    return assemble({ state, dropped, damaged, limits: { quota, quotaLow, minFree }, flushMs })
  } catch (error) {
    throw asStoreError(error, dir)
  }
}

function assemble({
  state,
  dropped,
  damaged,
  limits,
  flushMs,
}: {
  state: StoreState
  dropped: Set<DroppedListener>
  damaged: Set<DamagedListener>
  limits: RoomLimits
  flushMs: number
}): BlockStore {
  const { dir, index, blobs, totals, spare, log } = state
  const removal = createRemoval(state)
  const room = createRoom({ state, removal, limits })
  const facts = createFacts({ state, room })
  const put = createPut({ state, removal, room })
  const borrowing = createBorrowing({ state, removal, room, put })
  const read = createRead({ state, removal, borrowing })
  const scrub = createScrub({ state, removal, borrowing })
  const redeem = createRedeem({ state, put, read })
  const marks = createKept({ state, removal, room, redeem })

  const work = new Set<Promise<unknown>>()
  let closing: Promise<void> | undefined

  /** Every operation: refused once the store is closing, waited for by `close`, failing with ShoalErrors only. */
  function track<T>(start: () => Promise<T>): Promise<T> {
    if (closing) return Promise.reject(new ShoalError('ABORTED', `the block store in ${dir} is closed`))
    const running = start().catch((error: unknown) => {
      const failure = asStoreError(error, dir)
      if (failure.code === 'STORE_BROKEN') state.untidy = true
      throw failure
    })
    work.add(running)
    const done = (): void => {
      work.delete(running)
    }
    running.then(done, done)
    return running
  }

  const stop = new AbortController()
  const whileOpen = (signal: AbortSignal | undefined): AbortSignal =>
    signal ? AbortSignal.any([signal, stop.signal]) : stop.signal

  const timer = setInterval(() => {
    void track(async () => {
      await facts.flush()
      await room.relieve(stop.signal)
      await spare.ensure()
    }).catch((error: unknown) => {
      if (!stop.signal.aborted) log.warn({ err: error, dir }, 'the block store could not be kept in order')
    })
  }, flushMs)
  timer.unref()

  async function close(): Promise<void> {
    clearInterval(timer)
    stop.abort()
    await Promise.allSettled(work)
    try {
      const flushed = await facts.flush()
      if (flushed && !state.untidy) await leaveCleanMark(dir, totals)
    } catch (error) {
      // No mark: the next start looks through the store.
      await takeCleanMark(dir).catch(() => {})
      log.warn({ err: error, dir }, 'the block store could not be closed tidily')
    }
    await index.close()
  }

  return {
    putSegment: (digest, segment, bytes, signal) => track(() => put(digest, segment, bytes, signal)),
    read: (cid, options) => track(() => read(cid, options)),
    has: (cid) => track(() => index.has(blockKey(cid))),
    blob: (digest) => track(() => facts.blob(digest)),
    blobs: () => facts.blobs(),
    segments: (digest) => track(() => facts.segments(digest)),
    describe: (...args) => track(() => facts.describe(...args)),
    borrow: (digest, path, options) =>
      track(() => borrowing.borrow(digest, path, { ...options, signal: whileOpen(options.signal) })),
    giveBack: (digest) => track(() => borrowing.giveBack(digest)),
    own: (digest, signal) => track(() => redeem(digest, { signal: whileOpen(signal) })),
    markComplete: (digest) => track(() => facts.markComplete(digest)),
    dropSegment: (digest, offset) => track(() => removal.segment(digest, offset)),
    remove: (digest) =>
      track(async () => {
        await removal.blob(digest)
        await spare.ensure()
      }),
    pin: (digest, pinned) =>
      track(async () => {
        await facts.pin(digest, pinned)
        if (!pinned) return
        await redeem(digest, { signal: stop.signal })
        await borrowing.giveBack(digest)
      }),
    hold(digest) {
      blobs.touch(digest)
      const release = blobs.hold(digest)
      return () => {
        blobs.touch(digest)
        release()
      }
    },
    keep: (digest, offsets) => track(() => marks.keep(digest, offsets, stop.signal)),
    kept: (digest) => track(() => marks.kept(digest)),
    keptBlobs: () => marks.keptBlobs(),
    trim: (digest, signal) => track(() => marks.trim(digest, whileOpen(signal))),
    usage: () => ({ ...totals, quota: limits.quota }),
    collect: (signal, options) => track(() => room.collect(whileOpen(signal), options)),
    scrub: (options) => track(() => scrub({ ...options, signal: whileOpen(options.signal) })),
    onDropped(listener) {
      dropped.add(listener)
      return () => dropped.delete(listener)
    },
    onDamaged(listener) {
      damaged.add(listener)
      return () => damaged.delete(listener)
    },
    records: <T>(name: string) => createRecords<T>({ name, index, track, write: facts.write }),
    close() {
      closing ??= close()
      return closing
    },
  }
}
