import { isShoalError, type Log } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import type { Lease, ReleaseReason } from '../../scheduler/index.ts'
import type { Origin } from '../types.ts'
import type { Blocks } from './blocks.ts'
import type { BufferPool } from './buffers.ts'
import { createMeter } from './meter.ts'

/** Blocks of one lease that may be on their way to the disk while the next is being filled. */
const WRITES = 2

/** Fetches leased ranges from upstream and cuts them into blocks. */
export interface Seeding {
  /** Bytes a second of this task's uplink, 0 before it is known. */
  rate(): number
  readonly leases: readonly Lease[]
  readonly error: unknown
  /** The leases that the coordinator's answer lists: new ones start, those gone stop. */
  update(leases: readonly Lease[]): void
  /** Ends all. Resolves when no buffer is in use any more. */
  stop(): Promise<void>
}

interface Running {
  lease: Lease
  abort: AbortController
  finished: Promise<void>
  /** Upstream ignores ranges and this stream takes the blob whole. */
  whole: boolean
}

export function createSeeding(deps: {
  blocks: Blocks
  pool: BufferPool
  /** With whose rights to fetch; undefined when nobody who waits could. */
  origin: () => Origin | undefined
  /** A block was stored; `bytes` are valid during the call. */
  onBlock: (index: number, bytes: Uint8Array) => void
  /** Bytes came; the next are read when the promise settles. */
  onBytes: (count: number) => Promise<void>
  onRelease: (lease: Lease, reason: ReleaseReason, detail?: string) => void
  onDenied: (origin: Origin, error: unknown) => void
  /** The disk is full. */
  onFull: () => void
  /** Half of a lease is here: time to ask for the next, so that the uplink never pauses. */
  onHalf: () => void
  log: Log
}): Seeding {
  const { blocks, pool, log } = deps
  const running = new Map<string, Running>()
  /** An answer that crossed our release on its way may still list the lease. */
  const ended = new Set<string>()
  const meter = createMeter()
  let lastError: unknown

  function start(lease: Lease): void {
    const adopted = [...running.values()].find(
      (r) => r.whole && lease.start === 0 && lease.count === Infinity,
    )
    if (adopted) {
      running.delete(adopted.lease.id)
      adopted.lease = lease
      running.set(lease.id, adopted)
      return
    }
    const abort = new AbortController()
    const run: Running = { lease, abort, finished: Promise.resolve(), whole: false }
    running.set(lease.id, run)
    run.finished = seed(run).then(
      () => settle(run, 'done'),
      (error) => fail(run, error),
    )
  }

  function settle(run: Running, reason: ReleaseReason, detail?: string): void {
    if (running.get(run.lease.id) !== run) return
    running.delete(run.lease.id)
    ended.add(run.lease.id)
    deps.onRelease(run.lease, reason, detail)
  }

  function fail(run: Running, error: unknown): void {
    if (run.abort.signal.aborted) {
      settle(run, 'idle')
    } else if (isShoalError(error, 'STORE_FULL')) {
      deps.onFull()
      settle(run, 'idle')
    } else {
      lastError = error
      const reason = reasonOf(error)
      log.info({ lease: run.lease, reason, error: String(error) }, 'seeding a range failed')
      settle(run, reason, error instanceof Error ? error.message : String(error))
    }
  }

  async function seed(run: Running): Promise<void> {
    const { lease, abort } = run
    const origin = deps.origin()
    if (!origin) throw new DOMException('nobody to seed for', 'AbortError')
    const from = lease.start * BLOCK_SIZE
    const to = lease.count === Infinity ? undefined : (lease.start + lease.count) * BLOCK_SIZE
    const end = to !== undefined && blocks.size !== undefined ? Math.min(to, blocks.size) : to
    if (end !== undefined && end <= from && blocks.size !== 0) return
    let answer: Awaited<ReturnType<Origin['fetch']>>
    try {
      answer = await origin.fetch({ start: from, end }, abort.signal)
    } catch (error) {
      if (isShoalError(error, 'DENIED', 'UNAUTHORIZED', 'NOT_FOUND')) deps.onDenied(origin, error)
      throw error
    }
    const facts = answer.size === undefined ? {} : { size: answer.size }
    const type = answer.mediaType === undefined ? {} : { mediaType: answer.mediaType }
    await blocks.describe({ ...facts, ...type })
    if (!answer.ranged && from > 0) {
      await answer.body[Symbol.asyncIterator]().return?.()
      abort.abort()
      return settle(run, 'no-range')
    }
    if (!answer.ranged && to !== undefined && (answer.size === undefined || answer.size > to)) {
      // The whole blob comes in this stream; the coordinator is told, and leases all of it to us.
      run.whole = true
      ended.add(lease.id)
      deps.onRelease(lease, 'no-range')
    }
    await cut(answer.body, lease.start, run)
  }

  async function cut(body: AsyncIterable<Uint8Array>, start: number, run: Running): Promise<void> {
    let index = start
    let buffer = pool.take()
    let filled = 0
    const writes = new Set<Promise<void>>()
    let broken: unknown

    async function flush(): Promise<void> {
      const full = buffer
      const length = filled
      const at = index++
      buffer = pool.take()
      filled = 0
      const write = store(at, full.subarray(0, length))
        .catch((error) => {
          broken ??= error
        })
        .finally(() => {
          pool.give(full)
          writes.delete(write)
        })
      writes.add(write)
      if (writes.size >= WRITES) await Promise.race(writes)
      if (broken) throw broken
      if (index - start === Math.ceil(run.lease.count / 2)) deps.onHalf()
    }

    try {
      for await (const chunk of body) {
        run.abort.signal.throwIfAborted()
        meter.add(chunk.byteLength)
        const mayGoOn = deps.onBytes(chunk.byteLength)
        for (let at = 0; at < chunk.byteLength; ) {
          const part = Math.min(chunk.byteLength - at, BLOCK_SIZE - filled)
          buffer.set(chunk.subarray(at, at + part), filled)
          at += part
          filled += part
          if (filled === BLOCK_SIZE) await flush()
        }
        await mayGoOn
      }
      const total = index * BLOCK_SIZE + filled
      if (filled > 0 && (blocks.size === undefined || total === blocks.size)) await flush()
      await Promise.all(writes)
      if (broken) throw broken
      if (blocks.size === undefined) await blocks.describe({ size: total })
    } finally {
      await Promise.all(writes)
      pool.give(buffer)
    }
  }

  async function store(index: number, bytes: Uint8Array): Promise<void> {
    if (blocks.has(index)) return
    await blocks.acceptFromUpstream(index, bytes)
    deps.onBlock(index, bytes)
  }

  return {
    rate: () => meter.rate(),
    get leases() {
      return [...running.values()].map((run) => run.lease)
    },
    get error() {
      return lastError
    },
    update(leases) {
      for (const lease of leases) if (!running.has(lease.id) && !ended.has(lease.id)) start(lease)
      const live = new Set(leases.map((lease) => lease.id))
      for (const run of running.values()) {
        if (!live.has(run.lease.id) && !run.whole) run.abort.abort()
      }
    },
    async stop() {
      const all = [...running.values()]
      for (const run of all) run.abort.abort()
      await Promise.all(all.map((run) => run.finished))
    },
  }
}

function reasonOf(error: unknown): ReleaseReason {
  if (isShoalError(error, 'NOT_FOUND')) return 'missing'
  if (isShoalError(error, 'DENIED', 'UNAUTHORIZED')) return 'denied'
  return 'unreachable'
}
