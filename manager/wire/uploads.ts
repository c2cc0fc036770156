import { isShoalError, type Log } from '../../base/index.ts'
import type { PeerId, Priority } from '../types.ts'

/** Where an upload goes: a stream that sends what was loaded for it. */
export interface Lane {
  /** The job's block is in memory: send it. */
  onLoaded(job: Job): void
  /** The job is over without a block; it is on no list any more. */
  onFailed(job: Job, reason: 'missing' | 'failed'): void
  /** ms since which the stream has taken nothing while there was something to send. */
  stuckMs(): number
}

/** One block that a peer asked for. */
export interface Job {
  readonly peer: PeerId
  readonly id: number
  readonly cid: string
  readonly length: number
  readonly priority: Priority
  readonly lane: Lane
  readonly abort: AbortController
  /** Bytes sent. */
  offset: number
  /** The block, while it is loaded. */
  block: Buffer | undefined
  state: 'queued' | 'loading' | 'loaded' | 'parked' | 'over'
  /** Of the pool; goes back when the job lets go of it. */
  spare?: Buffer
}

export type Provide = (cid: string, signal: AbortSignal, into?: Buffer) => Promise<Buffer>

export interface UploadDesk {
  submit(job: Job): void
  /** Sent, cancelled, or its stream is gone. */
  finish(job: Job): void
  /** A parked job's stream takes data again. */
  unpark(job: Job): void
  /** A stream that was stuck takes data again. */
  kick(): void
  readonly queued: number
  readonly loaded: number
  readonly loadedBytes: number
}

interface Queue {
  client: Job[]
  preheat: Job[]
  /** Jobs of the peer that are loading or loaded. */
  held: number
}

/** A peer that took nothing for so long lends its place to those who wait. */
export const PARK_MS = 1000
/** The pool is given up when nothing was uploaded for so long. */
const IDLE_MS = 10_000
/** Why a finished request's signal aborts. Made once: an error for each block would cost more than the abort. */
const OVER = new Error('the request is over')

/**
 * Decides whose block is loaded next and bounds what is loaded at once: `maxBytes` in all and `perPeer` blocks for one peer.
 * What clients wait for goes before preheating, a peer that holds nothing before one that does, and peers take turns. A
 * block whose reader is stuck while others wait is unloaded, and loaded again when its stream moves.
 */
export function createUploadDesk(deps: {
  provide: Provide
  maxBytes: number
  perPeer: number
  /** Size of the buffers that are kept for loading; 0: none are. */
  pooled: number
  log: Log
}): UploadDesk {
  const { provide, maxBytes, perPeer, pooled, log } = deps
  /** In the order of turns: who was served goes to the end. */
  const peers = new Map<PeerId, Queue>()
  const held = new Set<Job>()
  const pool: Buffer[] = []
  let queued = 0
  let bytes = 0
  let trimmer: NodeJS.Timeout | undefined
  let ticker: NodeJS.Timeout | undefined

  /** What a job takes up: a pooled buffer is whole even for a short block. */
  const cost = (job: Job): number => Math.max(job.length, pooled)

  function queueOf(peer: PeerId): Queue {
    let queue = peers.get(peer)
    if (!queue) {
      queue = { client: [], preheat: [], held: 0 }
      peers.set(peer, queue)
    }
    return queue
  }

  function tidy(peer: PeerId, queue: Queue): void {
    if (queue.held === 0 && queue.client.length === 0 && queue.preheat.length === 0) peers.delete(peer)
  }

  function pick(): Job | undefined {
    for (const priority of ['client', 'preheat'] as const) {
      for (let most = 0; most < perPeer; most++) {
        for (const [peer, queue] of peers) {
          const job = queue[priority][0]
          // More for a reader that is stuck would only get stuck too.
          if (!job || queue.held > most || job.lane.stuckMs() >= PARK_MS) continue
          // A block larger than the whole budget still gets through, alone.
          if (bytes > 0 && bytes + cost(job) > maxBytes) return undefined
          queue[priority].shift()
          queued--
          peers.delete(peer)
          peers.set(peer, queue)
          return job
        }
      }
    }
    return undefined
  }

  function pump(): void {
    for (let job = pick(); job; job = pick()) {
      queueOf(job.peer).held++
      bytes += cost(job)
      held.add(job)
      job.state = 'loading'
      void load(job)
    }
    if (queued > 0) ticker ??= setInterval(park, PARK_MS / 2).unref()
    else {
      clearInterval(ticker)
      ticker = undefined
    }
  }

  /** Gives back what the job holds. */
  function release(job: Job): void {
    if (!held.delete(job)) return
    job.block = undefined
    if (job.spare) pool.push(job.spare)
    delete job.spare
    bytes -= cost(job)
    const queue = queueOf(job.peer)
    queue.held--
    tidy(job.peer, queue)
    if (held.size === 0 && trimmer === undefined) trimmer = setTimeout(trim, IDLE_MS).unref()
  }

  function trim(): void {
    trimmer = undefined
    if (held.size === 0) pool.length = 0
  }

  async function load(job: Job): Promise<void> {
    let failure: 'missing' | 'failed' | undefined
    if (pooled >= job.length) job.spare = pool.pop() ?? Buffer.allocUnsafeSlow(pooled)
    try {
      const block = await provide(job.cid, job.abort.signal, job.spare)
      // The asker's idea of the block is wrong; the bytes would not fit what it expects.
      if (block.length === job.length) job.block = block
      else failure = 'missing'
    } catch (error) {
      failure = isShoalError(error, 'BLOCK_MISSING', 'BLOCK_CORRUPT') ? 'missing' : 'failed'
      if (failure === 'failed' && !job.abort.signal.aborted) {
        log.warn({ cid: job.cid, error: String(error) }, 'reading a block for a peer failed')
      }
    }
    // Only now is the buffer free: provide may have written to it until here.
    if (job.state === 'over' || failure) {
      release(job)
      if (job.state !== 'over' && failure) {
        job.state = 'over'
        job.lane.onFailed(job, failure)
      }
      pump()
    } else {
      job.state = 'loaded'
      job.lane.onLoaded(job)
    }
  }

  function park(): void {
    for (const job of [...held]) {
      if (queued === 0) break
      if (job.state !== 'loaded' || job.lane.stuckMs() < PARK_MS) continue
      job.state = 'parked'
      release(job)
    }
    pump()
  }

  return {
    submit(job) {
      queueOf(job.peer)[job.priority].push(job)
      queued++
      pump()
    },
    finish(job) {
      if (job.state === 'over') return
      const { state } = job
      job.state = 'over'
      job.abort.abort(OVER)
      if (state === 'queued') {
        const queue = queueOf(job.peer)
        const list = queue[job.priority]
        const at = list.indexOf(job)
        if (at >= 0) {
          list.splice(at, 1)
          queued--
        }
        tidy(job.peer, queue)
      }
      // A loading one is released when provide has let go of its buffer.
      if (state === 'loaded') release(job)
      pump()
    },
    unpark(job) {
      if (job.state !== 'parked') return
      job.state = 'queued'
      queueOf(job.peer)[job.priority].unshift(job)
      queued++
      pump()
    },
    kick: pump,
    get queued() {
      return queued
    },
    get loaded() {
      return held.size
    },
    get loadedBytes() {
      return bytes
    },
  }
}
