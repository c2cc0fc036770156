import { randomUUID } from 'node:crypto'
import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Sources } from '../../manager/index.ts'
import { problemOf, tooMany } from './problem.ts'
import type { PullBlob, PullImage, PullProgress, PullStatus } from './types.ts'

/** Pulls at a time; more are refused, so that a script in a loop cannot fill the memory. */
const MAX_RUNNING = 32
/** Finished pulls that can still be asked for. */
const MAX_FINISHED = 64

interface Wanted {
  reference: string
  platform?: string
}

/** The pulls that were asked for over the API. Those that had not ended go on after a restart of the daemon. */
export interface Pulls {
  /** Starts again what the last daemon left unfinished. */
  resume(): Promise<void>
  /** @throws ShoalError with status 429 when too many are under way */
  start(request: Wanted): PullStatus
  get(id: string): PullStatus | undefined
  list(): PullStatus[]
  /** False when there is no such pull. A finished one stays as it is. */
  cancel(id: string): boolean
  /** Called after each change. Returns the unsubscriber. */
  onChange(listener: (pull: PullStatus) => void): () => void
  close(): Promise<void>
}

function sumSources(blobs: PullBlob[]): Sources {
  const sum = { local: 0, peers: 0, upstream: 0 }
  for (const { sources } of blobs) {
    sum.local += sources.local
    sum.peers += sources.peers
    sum.upstream += sources.upstream
  }
  return sum
}

/** The whole size once every blob's is known. */
function sumSizes(blobs: PullBlob[]): number | undefined {
  let sum = 0
  for (const { size } of blobs) {
    if (size === undefined) return undefined
    sum += size
  }
  return blobs.length > 0 ? sum : undefined
}

export function createPulls({
  pull,
  wanted,
  log,
  now = Date.now,
}: {
  pull: PullImage
  wanted: Records<Wanted>
  log: Log
  now?: () => number
}): Pulls {
  const pulls = new Map<string, { status: PullStatus; abort: AbortController; ended: Promise<void> }>()
  const listeners = new Set<(pull: PullStatus) => void>()
  let closing = false

  const remember = (write: Promise<void>): Promise<void> =>
    write.catch((error) => log.warn({ err: error }, 'a pull could not be noted for a restart'))

  function running(): number {
    return [...pulls.values()].filter(({ status }) => status.state === 'running').length
  }

  function forgetOldest(): void {
    let surplus = pulls.size - running() - MAX_FINISHED
    for (const [id, { status }] of pulls) {
      if (surplus <= 0) return
      if (status.state === 'running') continue
      pulls.delete(id)
      surplus--
    }
  }

  function apply(status: PullStatus, progress: PullProgress): void {
    const size = progress.total?.size ?? sumSizes(progress.blobs)
    if (size !== undefined) status.size = size
    if (progress.digest !== undefined) status.digest = progress.digest
    status.blobs = progress.blobs
    status.bytesHere = progress.total?.size ?? progress.blobs.reduce((sum, blob) => sum + blob.bytesHere, 0)
    status.sources = progress.total?.sources ?? sumSources(progress.blobs)
  }

  const tell = (status: PullStatus): void => {
    for (const listener of listeners) listener(status)
  }

  async function run(
    status: PullStatus,
    request: Parameters<PullImage>[0],
    signal: AbortSignal,
  ): Promise<void> {
    try {
      const end = await pull(request, {
        signal,
        onProgress: (progress) => {
          if (status.state !== 'running') return
          apply(status, progress)
          tell(status)
        },
      })
      apply(status, end)
      status.state = 'done'
    } catch (error) {
      status.state = signal.aborted ? 'cancelled' : 'failed'
      if (!signal.aborted) {
        status.error = problemOf(error)
        const { reference } = status
        if (isShoalError(error))
          log.warn({ reference, code: error.code, error: error.message }, 'a pull failed')
        else log.error({ reference, err: error }, 'a pull broke')
      }
    }
    status.finishedAt = now()
    if (!closing) await remember(wanted.delete(status.id))
    forgetOldest()
    tell(status)
  }

  function start(request: Wanted): PullStatus {
    const abort = new AbortController()
    const status: PullStatus = {
      id: randomUUID(),
      ...request,
      state: 'running',
      startedAt: now(),
      blobs: [],
      bytesHere: 0,
      sources: { local: 0, peers: 0, upstream: 0 },
    }
    const noted = remember(wanted.put(status.id, request))
    const ended = noted.then(() => run(status, request, abort.signal))
    pulls.set(status.id, { status, abort, ended })
    return status
  }

  return {
    resume: async () => {
      // Read to its end first: what is started is noted in the same table.
      const left = await Array.fromAsync(wanted.entries())
      for (const [id, request] of left) {
        start(request)
        await wanted.delete(id)
      }
    },
    start: (request) => {
      if (running() >= MAX_RUNNING) throw tooMany(`${MAX_RUNNING} pulls are under way already`)
      return start(request)
    },
    get: (id) => pulls.get(id)?.status,
    list: () => [...pulls.values()].map(({ status }) => status),
    cancel: (id) => {
      const entry = pulls.get(id)
      entry?.abort.abort(new ShoalError('ABORTED', 'the pull was cancelled'))
      return entry !== undefined
    },
    onChange: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close: async () => {
      closing = true
      for (const { abort } of pulls.values()) abort.abort(new ShoalError('ABORTED', 'the daemon is stopping'))
      await Promise.all([...pulls.values()].map(({ ended }) => ended))
    },
  }
}
