import type { Stream } from '@libp2p/interface'
import type { Priority } from '../types.ts'
import { dataFrame, SMALL } from './blockframes.ts'
import type { Bucket } from './bucket.ts'
import { type Job, type Lane, PARK_MS } from './uploads.ts'
import { createWriter } from './writer.ts'

/** Bytes of END frames that may wait for a peer that does not read. */
const MAX_CONTROL = 256 * 1024
const MIN_CHUNK = 8 * 1024
const FIRST_CHUNK = 64 * 1024
/** A piece should take the stream at least and at most this long, in ms: small enough to be overtaken soon. */
const CHUNK_MS = { min: 20, max: 150 }

export interface UploadLane extends Lane {
  /** Queues a control frame. False: too many wait. */
  control(frame: Buffer): boolean
  /** Takes a job off the stream. */
  drop(job: Job): void
  close(): void
}

/**
 * Sends loaded blocks over one stream, piece by piece: a client's block before a preheated one, a small one before a large
 * one, else the one that came first. The order is decided anew for each piece.
 */
export function createUploadLane(deps: {
  stream: Stream
  bucket: Bucket
  chunk: number
  onSent: (bytes: number) => void
  /** All of it was handed to the stream. */
  onDone: (job: Job) => void
  onFailed: Lane['onFailed']
  /** The stream takes data again: a parked job may be loaded. */
  onMoving: (job: Job) => void
  /** The stream takes data again after it was stuck. */
  onUnstuck: () => void
}): UploadLane {
  const { stream, bucket, onSent, onDone, onFailed, onMoving, onUnstuck } = deps
  const active: Job[] = []
  let chunk = Math.min(FIRST_CHUNK, deps.chunk)
  /** When the stream last took something; undefined while there is nothing to send. */
  let tookAt: number | undefined
  /** Bytes that the upload limit has granted and that were not sent yet. */
  let credit = 0
  let throttled = false
  let closed = false

  const granted = (): void => {
    throttled = false
    // Time spent on the limit is not the peer's.
    tookAt = performance.now()
    writer.wake()
  }

  function best(): Job | undefined {
    let found: Job | undefined
    for (const job of active) {
      if (job.state === 'parked') {
        onMoving(job)
        continue
      }
      if (job.state !== 'loaded') continue
      if (!found || rank(job) < rank(found)) found = job
    }
    return found
  }

  function adapt(now: number): void {
    if (tookAt === undefined) return
    const ms = now - tookAt
    if (ms > CHUNK_MS.max) chunk = Math.max(MIN_CHUNK, chunk / 2)
    else if (ms < CHUNK_MS.min) chunk = Math.min(deps.chunk, chunk * 2)
  }

  function allowed(bytes: number, priority: Priority): boolean {
    if (credit >= bytes) {
      credit -= bytes
      return true
    }
    const missing = bytes - credit
    credit = 0
    if (bucket.take(missing, priority, granted)) return true
    credit = bytes
    throttled = true
    return false
  }

  function next(): Buffer | undefined {
    if (closed || throttled) return undefined
    const stuck = stuckMs() >= PARK_MS
    const now = performance.now()
    adapt(now)
    const job = best()
    tookAt = job ? now : undefined
    if (stuck) onUnstuck()
    if (!job?.block) return undefined
    // At a low limit a piece must not take seconds, or the reader believes that we stall.
    const most = bucket.rate === undefined ? chunk : Math.min(chunk, Math.max(1024, bucket.rate / 8))
    const length = Math.min(Math.ceil(most), job.length - job.offset)
    if (!allowed(length, job.priority)) return undefined
    const frame = dataFrame(job.id, job.block, job.offset, length)
    job.offset += length
    onSent(length)
    if (job.offset === job.length) {
      remove(job)
      onDone(job)
    }
    return frame
  }

  function remove(job: Job): void {
    const at = active.indexOf(job)
    if (at >= 0) active.splice(at, 1)
  }

  const stuckMs = (): number => (tookAt === undefined || throttled ? 0 : performance.now() - tookAt)

  const writer = createWriter({ stream, maxQueued: MAX_CONTROL + 2 * deps.chunk, source: next })

  return {
    control: writer.push,
    drop: remove,
    onLoaded(job) {
      if (!active.includes(job)) active.push(job)
      tookAt ??= performance.now()
      writer.wake()
    },
    onFailed(job, reason) {
      remove(job)
      onFailed(job, reason)
    },
    stuckMs,
    close() {
      closed = true
      active.length = 0
      bucket.withdraw(granted)
    },
  }
}

function rank(job: Job): number {
  return (job.priority === 'client' ? 0 : 2) + (job.length <= SMALL ? 0 : 1)
}
