import { randomUUID } from 'node:crypto'
import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import { problemOf, tooMany } from './problem.ts'
import type { Problem } from './types.ts'

/** Jobs of one kind at a time; more are refused, so that a script in a loop cannot fill the memory. */
const MAX_RUNNING = 32
/** Finished jobs that can still be asked for. */
const MAX_FINISHED = 64

/** Something about an image that was asked for over the API and takes its time. */
export interface Job {
  id: string
  reference: string
  state: 'running' | 'done' | 'failed' | 'cancelled'
  startedAt: number
  finishedAt?: number
  error?: Problem
}

/** Those that had not ended go on after a restart of the daemon. */
export interface Jobs<Wanted, Status extends Job> {
  /** Starts again what the last daemon left unfinished. */
  resume(): Promise<void>
  /** @throws ShoalError with status 429 when too many are under way */
  start(request: Wanted): Status
  get(id: string): Status | undefined
  list(): Status[]
  /** False when there is no such job. A finished one stays as it is. */
  cancel(id: string): boolean
  /** Called after each change. Returns the unsubscriber. */
  onChange(listener: (job: Status) => void): () => void
  close(): Promise<void>
}

export function createJobs<Wanted extends { reference: string }, Progress, Status extends Job>({
  what,
  run: work,
  begin,
  apply,
  wanted,
  log,
  now = Date.now,
}: {
  /** What people call such a job. */
  what: string
  run: (
    request: Wanted,
    options: { signal: AbortSignal; onProgress: (progress: Progress) => void },
  ) => Promise<Progress>
  /** The status of one that begins. */
  begin: (job: Job & Wanted) => Status
  apply: (status: Status, progress: Progress) => void
  wanted: Records<Wanted>
  log: Log
  now?: (() => number) | undefined
}): Jobs<Wanted, Status> {
  const jobs = new Map<string, { status: Status; abort: AbortController; ended: Promise<void> }>()
  const listeners = new Set<(job: Status) => void>()
  let closing = false

  const remember = (write: Promise<void>): Promise<void> =>
    write.catch((error) => log.warn({ err: error }, `a ${what} could not be noted for a restart`))

  function running(): number {
    return [...jobs.values()].filter(({ status }) => status.state === 'running').length
  }

  function forgetOldest(): void {
    let surplus = jobs.size - running() - MAX_FINISHED
    for (const [id, { status }] of jobs) {
      if (surplus <= 0) return
      if (status.state === 'running') continue
      jobs.delete(id)
      surplus--
    }
  }

  const tell = (status: Status): void => {
    for (const listener of listeners) listener(status)
  }

  async function run(status: Status, request: Wanted, signal: AbortSignal): Promise<void> {
    try {
      const end = await work(request, {
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
          log.warn({ reference, code: error.code, error: error.message }, `a ${what} failed`)
        else log.error({ reference, err: error }, `a ${what} broke`)
      }
    }
    status.finishedAt = now()
    if (!closing) await remember(wanted.delete(status.id))
    forgetOldest()
    tell(status)
  }

  function start(request: Wanted): Status {
    const abort = new AbortController()
    const status = begin({ id: randomUUID(), ...request, state: 'running', startedAt: now() })
    const noted = remember(wanted.put(status.id, request))
    const ended = noted.then(() => run(status, request, abort.signal))
    jobs.set(status.id, { status, abort, ended })
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
      if (running() >= MAX_RUNNING) throw tooMany(`${MAX_RUNNING} ${what}s are under way already`)
      return start(request)
    },
    get: (id) => jobs.get(id)?.status,
    list: () => [...jobs.values()].map(({ status }) => status),
    cancel: (id) => {
      const entry = jobs.get(id)
      entry?.abort.abort(new ShoalError('ABORTED', `the ${what} was cancelled`))
      return entry !== undefined
    },
    onChange: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close: async () => {
      closing = true
      for (const { abort } of jobs.values()) abort.abort(new ShoalError('ABORTED', 'the daemon is stopping'))
      await Promise.all([...jobs.values()].map(({ ended }) => ended))
    },
  }
}
