import { isShoalError, ShoalError } from '../../base/index.ts'
import type { Job } from '../api/jobs.ts'
import { errorOf } from '../api/problem.ts'
import type { Client } from '../client.ts'

const POLL_MS = 500

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
  })
}

/**
 * Follows a job of the daemon to its end: by the event stream while that stands, else by asking.
 * @throws NO_DAEMON when the daemon is gone | ABORTED
 */
async function follow<T extends Job>(
  client: Client,
  started: T,
  { what, path, onUpdate, signal }: FollowOptions<T>,
): Promise<T> {
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  let latest = started
  const see = (job: T): void => {
    latest = job
    onUpdate(job)
    if (job.state !== 'running') stop.abort()
  }
  // What happened before the stream stood is in the answer to this question.
  const catchUp = (): Promise<void> => client.get<T>(path, { signal: either }).then(see, () => {})
  await client
    .events(`/api/v1/events?types=${what}`, {
      signal: either,
      onOpen: () => void catchUp(),
      onEvent: ({ data }) => {
        const job = JSON.parse(data) as T
        if (job.id === started.id) see(job)
      },
    })
    .catch((error: unknown) => {
      if (!isShoalError(error)) throw error
    })
  while (latest.state === 'running') {
    signal.throwIfAborted()
    see(await client.get<T>(path, { signal }))
    if (latest.state === 'running') await pause(POLL_MS, signal)
  }
  return latest
}

export interface FollowOptions<T> {
  /** The events' type, and what people call it. */
  what: string
  path: string
  onUpdate: (job: T) => void
  signal: AbortSignal
}

/** Follows a job until it is done; an interrupt cancels it. @throws what it failed with | ABORTED | NO_DAEMON */
export async function finish<T extends Job>(
  client: Client,
  started: T,
  options: FollowOptions<T>,
): Promise<T> {
  const { what, path, signal } = options
  try {
    const end = await follow(client, started, options)
    if (end.state === 'failed') throw errorOf(end.error ?? {}, 500)
    if (end.state === 'cancelled') throw new ShoalError('ABORTED', `the ${what} was cancelled`)
    return end
  } catch (error) {
    if (!signal.aborted) throw error
    await client.send('DELETE', path, undefined, { patienceMs: 3000 }).catch(() => {})
    throw new ShoalError('ABORTED', `interrupted: the ${what} is cancelled`, { cause: error })
  }
}
