import { formatBytes, isShoalError, ShoalError } from '../../base/index.ts'
import { errorOf } from '../api/problem.ts'
import type { PullStatus } from '../api/types.ts'
import type { Client } from '../client.ts'
import { formatRate, formatSources, print, printJson } from '../output.ts'
import { createProgress, type Progress } from '../progress.ts'
import { formatDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

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
 * Follows a pull to its end: by the event stream while that stands, else by asking.
 * @throws NO_DAEMON when the daemon is gone | ABORTED
 */
async function follow(
  client: Client,
  started: PullStatus,
  progress: Progress | undefined,
  signal: AbortSignal,
): Promise<PullStatus> {
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  const path = `/api/v1/pulls/${started.id}`
  let latest = started
  const see = (pull: PullStatus): void => {
    latest = pull
    progress?.update(pull)
    if (pull.state !== 'running') stop.abort()
  }
  // What happened before the stream stood is in the answer to this question.
  const catchUp = (): Promise<void> => client.get<PullStatus>(path, { signal: either }).then(see, () => {})
  await client
    .events('/api/v1/events?types=pull', {
      signal: either,
      onOpen: () => void catchUp(),
      onEvent: ({ data }) => {
        const pull = JSON.parse(data) as PullStatus
        if (pull.id === started.id) see(pull)
      },
    })
    .catch((error: unknown) => {
      if (!isShoalError(error)) throw error
    })
  while (latest.state === 'running') {
    signal.throwIfAborted()
    see(await client.get<PullStatus>(path, { signal }))
    if (latest.state === 'running') await pause(POLL_MS, signal)
  }
  return latest
}

function summary(pull: PullStatus): string[] {
  const ms = Math.max(1, (pull.finishedAt ?? pull.startedAt) - pull.startedAt)
  return [
    `${pull.reference}${pull.digest === undefined ? '' : `@${pull.digest}`}`,
    `${formatBytes(pull.bytesHere)} in ${formatDuration(ms)} (${formatRate((1000 * pull.bytesHere) / ms)}): ${formatSources(pull.sources)}`,
  ]
}

/** `shoal pull`: has the daemon pull an image into its store and shows how it goes. An interrupt cancels the pull. */
export async function pullCommand(
  context: Context,
  reference: string,
  flags: ClientFlags & { platform?: string },
): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const started = await client.send<PullStatus>(
      'POST',
      '/api/v1/images',
      { reference, ...(flags.platform === undefined ? {} : { platform: flags.platform }) },
      // Not cut short by an interrupt: whoever does not know the pull's name cannot cancel it.
      { patienceMs: 10e3 },
    )
    const progress = flags.json ? undefined : createProgress(io.err)
    try {
      const end = await follow(client, started, progress, signal)
      progress?.end()
      if (end.state === 'failed') throw errorOf(end.error ?? {}, 500)
      if (end.state === 'cancelled') throw new ShoalError('ABORTED', 'the pull was cancelled')
      if (flags.json) printJson(io, end)
      else print(io, summary(end))
    } catch (error) {
      if (!signal.aborted) throw error
      await client
        .send('DELETE', `/api/v1/pulls/${started.id}`, undefined, { patienceMs: 3000 })
        .catch(() => {})
      throw new ShoalError('ABORTED', 'interrupted: the pull is cancelled', { cause: error })
    }
  })
}
