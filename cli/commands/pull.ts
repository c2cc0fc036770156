import { formatBytes, ShoalError } from '../../base/index.ts'
import { errorOf } from '../api/problem.ts'
import type { PullStatus } from '../api/types.ts'
import { formatRate, formatSources, print, printJson } from '../output.ts'
import { createProgress } from '../progress.ts'
import { formatDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'
import { follow } from './follow.ts'

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
      const end = await follow({
        client,
        type: 'pull',
        path: `/api/v1/pulls/${started.id}`,
        started,
        isIt: ({ id }) => id === started.id,
        onUpdate: (pull) => progress?.update(pull),
        signal,
      })
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
