import type { Stream } from '@libp2p/interface'
import { type Log, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, cidOfHash } from '../../blockstore/index.ts'
import type { PeerId } from '../types.ts'
import {
  END,
  type EndReason,
  endFrame,
  FRAME,
  HASH_BYTES,
  HEADER,
  MAX_BLOCK,
  readHeader,
  SMALL,
} from './blockframes.ts'
import type { Bucket } from './bucket.ts'
import { createFrameParser } from './frames.ts'
import { createUploadLane, type UploadLane } from './upload-lane.ts'
import { createUploadDesk, type Job, type Provide } from './uploads.ts'

export interface ServerLimits {
  /** Blocks of full size that are loaded at once, for all peers. */
  maxUploads: number
  /** Requests of one peer that are queued or under way; past it the answer is busy. */
  maxQueued: number
  /** Largest part of a block that goes out in one piece. */
  chunk: number
}

/** Small blocks have a budget of their own, so that a manifest never waits for layers. */
const SMALL_BUDGET = 1024 * 1024
const SMALL_PER_PEER = 16
const LARGE_PER_PEER = 2
/** Streams on which nothing moves for so long, with data waiting, are given up. */
const STUCK_MS = 30_000
const GRACE_MS = 1000

/** The answering half of the block exchange, for all peers. */
export function createExchangeServer(deps: {
  provide: Provide
  limits: ServerLimits
  bucket: Bucket
  onSent: (peer: PeerId, bytes: number) => void
  onBad: (peer: PeerId, error: unknown) => void
  log: Log
}) {
  const { provide, limits, bucket, onSent, onBad, log } = deps
  const large = createUploadDesk({
    provide,
    maxBytes: limits.maxUploads * BLOCK_SIZE,
    perPeer: LARGE_PER_PEER,
    pooled: BLOCK_SIZE,
    log,
  })
  const small = createUploadDesk({
    provide,
    maxBytes: SMALL_BUDGET,
    perPeer: SMALL_PER_PEER,
    pooled: 0,
    log,
  })
  const lanes = new Map<UploadLane, Stream>()
  const pending = new Map<PeerId, number>()
  let closing = false
  let watch: NodeJS.Timeout | undefined

  function count(peer: PeerId, by: number): void {
    const next = (pending.get(peer) ?? 0) + by
    if (next > 0) pending.set(peer, next)
    else pending.delete(peer)
  }

  const deskOf = (job: Job) => (job.length <= SMALL ? small : large)

  function watchLanes(): void {
    for (const [lane, stream] of lanes) {
      if (lane.stuckMs() > STUCK_MS) stream.abort(new ShoalError('TIMEOUT', 'the peer reads nothing'))
    }
  }

  function accept(stream: Stream, peer: PeerId): void {
    const jobs = new Map<number, Job>()
    let broken = false
    let ask: { id: number; length: number; preheat: boolean } | undefined
    const hash = Buffer.alloc(HASH_BYTES)

    function over(job: Job): void {
      if (!jobs.delete(job.id)) return
      count(peer, -1)
      deskOf(job).finish(job)
    }

    const lane = createUploadLane({
      stream,
      bucket,
      chunk: limits.chunk,
      onSent: (bytes) => onSent(peer, bytes),
      onDone: over,
      onFailed(job, reason) {
        over(job)
        end(job.id, reason === 'missing' ? END.MISSING : END.FAILED)
      },
      onMoving: (job) => deskOf(job).unpark(job),
      onUnstuck() {
        large.kick()
        small.kick()
      },
    })

    function end(id: number, reason: EndReason): void {
      if (lane.control(endFrame(id, reason)) || stream.writeStatus !== 'writable') return
      fail(new ShoalError('PROTOCOL', 'the peer asks and does not read the answers'))
    }

    function fail(error: unknown): void {
      broken = true
      onBad(peer, error)
      stream.abort(error instanceof Error ? error : new Error(String(error)))
    }

    function submit({ id, length, preheat }: { id: number; length: number; preheat: boolean }): void {
      if (broken) return
      if (closing || (pending.get(peer) ?? 0) >= limits.maxQueued) {
        end(id, END.BUSY)
        return
      }
      const job: Job = {
        peer,
        id,
        cid: cidOfHash(hash),
        length,
        priority: preheat ? 'preheat' : 'client',
        lane,
        abort: new AbortController(),
        offset: 0,
        block: undefined,
        state: 'queued',
      }
      jobs.set(id, job)
      count(peer, 1)
      deskOf(job).submit(job)
    }

    const parser = createFrameParser({
      headerLength: HEADER,
      onHeader(bytes) {
        const { type, flag, id, length } = readHeader(bytes)
        if (type === FRAME.ASK && flag <= 1 && length > 0 && length <= MAX_BLOCK && !jobs.has(id)) {
          ask = { id, length, preheat: flag === 1 }
          return HASH_BYTES
        }
        if (type === FRAME.CANCEL && flag === 0 && length === 0) {
          const job = jobs.get(id)
          if (job) {
            lane.drop(job)
            over(job)
            end(id, END.CANCELLED)
          }
          return 0
        }
        throw new ShoalError('PROTOCOL', `a frame of type ${type} that makes no sense here`)
      },
      onBody(part, offset, last) {
        hash.set(part, offset)
        if (last && ask) submit(ask)
      },
    })

    lanes.set(lane, stream)
    watch ??= setInterval(watchLanes, STUCK_MS / 4).unref()
    stream.addEventListener('message', ({ data }) => {
      if (broken) return
      try {
        parser.push(data)
      } catch (error) {
        fail(error)
      }
    })
    stream.addEventListener('remoteCloseWrite', () =>
      stream.abort(new ShoalError('PEER_GONE', 'the peer is done')),
    )
    stream.addEventListener('close', () => {
      broken = true
      lanes.delete(lane)
      if (lanes.size === 0) {
        clearInterval(watch)
        watch = undefined
      }
      lane.close()
      for (const job of [...jobs.values()]) over(job)
    })
  }

  return {
    accept,
    stats: () => ({
      queued: large.queued + small.queued,
      loaded: large.loaded + small.loaded,
      loadedBytes: large.loadedBytes + small.loadedBytes,
      streams: lanes.size,
    }),
    /** Answers no more; what is loaded may still go out for a second. */
    async close(): Promise<void> {
      closing = true
      const until = performance.now() + GRACE_MS
      while (large.loaded + small.loaded > 0 && performance.now() < until) {
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
      for (const stream of [...lanes.values()]) stream.abort(new ShoalError('ABORTED', 'closing'))
    },
  }
}
