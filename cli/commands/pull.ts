import { formatBytes } from '../../base/index.ts'
import type { PullStatus } from '../api/types.ts'
import { formatRate, formatSources, print, printJson } from '../output.ts'
import { createProgress } from '../progress.ts'
import { formatDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'
import { finish } from './follow.ts'

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
    const path = `/api/v1/pulls/${started.id}`
    const onUpdate = (pull: PullStatus): void => progress?.update(pull)
    const end = await finish(client, started, { what: 'pull', path, onUpdate, signal }).finally(() =>
      progress?.end(),
    )
    if (flags.json) printJson(io, end)
    else print(io, summary(end))
  })
}
