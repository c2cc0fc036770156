import { type Digest, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore, Records } from '../../blockstore/index.ts'
import { problemOf } from './problem.ts'
import type { ScrubStatus } from './types.ts'

/**
 * Bytes a second of a scrub that nobody asked for: an SD card or a small disk reads several times as fast, so that pulls
 * hardly feel it, and 100 GB are still through in four hours.
 */
const BACKGROUND_RATE = 8 * 2 ** 20
/**
 * How often it is looked whether the next one is due; it may have come due while the node was off. The first look is so
 * long after the start, too, when a node has other things to do.
 */
const LOOK_MS = 15 * 60e3

interface Last {
  /** ms since the epoch. */
  finishedAt: number
}

/** The scrub that goes on, or the last one. One at a time. */
export interface Scrubs {
  /** @throws ShoalError with status 409 while one goes on */
  start(options: { bytesPerSecond: number }): ScrubStatus
  status(): ScrubStatus
  /** False when none goes on. */
  cancel(): boolean
  /** Called after each change. Returns the unsubscriber. */
  onChange(listener: (scrub: ScrubStatus) => void): () => void
  close(): Promise<void>
}

export function createScrubs({
  store,
  last,
  everyMs,
  repair,
  log,
  now = Date.now,
  lookMs = LOOK_MS,
}: {
  store: BlockStore
  last: Records<Last>
  /** Between the end of one and the beginning of the next; 0: only when asked for. */
  everyMs: number
  /** Fetches again what a blob lacks. */
  repair: (digest: Digest) => void
  log: Log
  now?: () => number
  lookMs?: number
}): Scrubs {
  const listeners = new Set<(scrub: ScrubStatus) => void>()
  let status: ScrubStatus = { state: 'never', blocks: 0, bytes: 0, bad: 0, total: 0 }
  let running: { abort: AbortController; ended: Promise<void> } | undefined

  const tell = (changes: Partial<ScrubStatus>): void => {
    status = { ...status, ...changes }
    for (const listener of listeners) listener(status)
  }

  async function run(bytesPerSecond: number, signal: AbortSignal): Promise<void> {
    try {
      const done = await store.scrub({ bytesPerSecond, signal, onProgress: tell })
      // Blocks that an earlier start found missing, before anybody listened, count as damage to what is pinned.
      for await (const blob of store.blobs()) if (blob.pinned && !blob.complete) repair(blob.digest)
      await last.put('last', { finishedAt: now() })
      running = undefined
      tell({ ...done, state: 'done', finishedAt: now() })
    } catch (error) {
      const cancelled = signal.aborted
      if (!cancelled) {
        if (isShoalError(error)) log.warn({ code: error.code, error: error.message }, 'a scrub failed')
        else log.error({ err: error }, 'a scrub broke')
      }
      running = undefined
      tell({
        state: cancelled ? 'cancelled' : 'failed',
        finishedAt: now(),
        ...(cancelled ? {} : { error: problemOf(error) }),
      })
    }
  }

  function start({ bytesPerSecond }: { bytesPerSecond: number }): ScrubStatus {
    if (running) {
      throw Object.assign(new ShoalError('BUSY', 'a scrub goes on already'), { status: 409 })
    }
    const abort = new AbortController()
    const { bytes: total } = store.usage()
    status = { state: 'running', startedAt: now(), bytesPerSecond, blocks: 0, bytes: 0, bad: 0, total }
    running = { abort, ended: run(bytesPerSecond, abort.signal) }
    tell({})
    return status
  }

  async function startIfDue(): Promise<void> {
    const before = await last.get('last')
    // A new node waits for its turn too: all of its blocks were verified as they came.
    if (before === undefined) await last.put('last', { finishedAt: now() })
    else if (!running && now() - before.finishedAt >= everyMs) start({ bytesPerSecond: BACKGROUND_RATE })
  }

  const look = (): void => {
    startIfDue().catch((error) => log.warn({ err: error }, 'the next scrub could not be started'))
  }
  const timer = everyMs > 0 ? setInterval(look, lookMs).unref() : undefined

  return {
    start,
    status: () => status,
    cancel: () => {
      running?.abort.abort(new ShoalError('ABORTED', 'the scrub was cancelled'))
      return running !== undefined
    },
    onChange: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close: async () => {
      clearInterval(timer)
      running?.abort.abort(new ShoalError('ABORTED', 'the daemon is stopping'))
      await running?.ended
    },
  }
}
