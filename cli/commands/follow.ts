import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, ShoalError } from '../../base/index.ts'
import type { Job } from '../api/jobs.ts'
import { errorOf } from '../api/problem.ts'
import type { Client } from '../client.ts'

const POLL_MS = 500

/**
 * Follows something that the daemon does to its end: by the event stream while that stands, else by asking.
 * @param type of the events; `path` answers the same thing
 * @param isIt whether an event is about what was started
 * @throws NO_DAEMON when the daemon is gone | ABORTED
 */
export async function follow<T extends { state: string }>({
  client,
  type,
  path,
  started,
  isIt,
  onUpdate,
  signal,
}: {
  client: Client
  type: string
  path: string
  started: T
  isIt: (told: T) => boolean
  onUpdate: (latest: T) => void
  signal: AbortSignal
}): Promise<T> {
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  let latest = started
  const see = (told: T): void => {
    latest = told
    onUpdate(told)
    if (told.state !== 'running') stop.abort()
  }
  // What happened before the stream stood is in the answer to this question.
  const catchUp = (): Promise<void> => client.get<T>(path, { signal: either }).then(see, () => {})
  await client
    .events(`/api/v1/events?types=${type}`, {
      signal: either,
      onOpen: () => void catchUp(),
      onEvent: ({ data }) => {
        const told = JSON.parse(data) as T
        if (isIt(told)) see(told)
      },
    })
    .catch((error: unknown) => {
      if (!isShoalError(error)) throw error
    })
  while (latest.state === 'running') {
    signal.throwIfAborted()
    see(await client.get<T>(path, { signal }))
    if (latest.state === 'running') await sleep(POLL_MS, undefined, { signal }).catch(() => {})
  }
  return latest
}

/**
 * Follows a job (a pull, a storing) until it is done; an interrupt cancels it.
 * @throws what it failed with | ABORTED | NO_DAEMON
 */
export async function finish<T extends Job>(
  client: Client,
  started: T,
  options: {
    /** The events' type, and what people call it. */
    what: string
    path: string
    onUpdate: (job: T) => void
    signal: AbortSignal
  },
): Promise<T> {
  const { what, path, onUpdate, signal } = options
  try {
    const isIt = ({ id }: T): boolean => id === started.id
    const end = await follow({ client, type: what, path, started, isIt, onUpdate, signal })
    if (end.state === 'failed') throw errorOf(end.error ?? {}, 500)
    if (end.state === 'cancelled') throw new ShoalError('ABORTED', `the ${what} was cancelled`)
    return end
  } catch (error) {
    if (!signal.aborted) throw error
    await client.send('DELETE', path, undefined, { patienceMs: 3000 }).catch(() => {})
    throw new ShoalError('ABORTED', `interrupted: the ${what} is cancelled`, { cause: error })
  }
}
