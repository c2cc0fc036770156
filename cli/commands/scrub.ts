import { formatBytes, ShoalError } from '../../base/index.ts'
import { errorOf } from '../api/problem.ts'
import type { ScrubStatus } from '../api/types.ts'
import { formatRate, print, printJson } from '../output.ts'
import { createScrubProgress } from '../scrub-progress.ts'
import { formatDuration, parseRate } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'
import { follow } from './follow.ts'

const PATH = '/api/v1/scrub'

function summary(scrub: ScrubStatus): string {
  const { blocks, bytes, bad, startedAt = 0, finishedAt = 0 } = scrub
  const ms = Math.max(1, finishedAt - startedAt)
  const verdict =
    bad === 0 ? 'all good' : `${bad} bad, dropped; what was whole or pinned is being fetched again`
  return `${formatBytes(bytes)} in ${blocks} blocks in ${formatDuration(ms)} (${formatRate((1000 * bytes) / ms)}): ${verdict}`
}

/** `shoal scrub`: has the daemon verify its whole store and shows how it goes. An interrupt cancels it. */
export async function scrubCommand(context: Context, flags: ClientFlags & { rate?: string }): Promise<void> {
  const { io, signal } = context
  const body = flags.rate === undefined ? undefined : { bytesPerSecond: parseRate(flags.rate) }
  await withClient(context, flags, async (client) => {
    // Not cut short by an interrupt, so that it is known whether there is something to cancel.
    const started = await client.send<ScrubStatus>('POST', PATH, body, { patienceMs: 10e3 })
    const progress = flags.json ? undefined : createScrubProgress(io.err)
    try {
      const end = await follow({
        client,
        type: 'scrub',
        path: PATH,
        started,
        isIt: ({ startedAt }) => startedAt === started.startedAt,
        onUpdate: (scrub) => progress?.update(scrub),
        signal,
      })
      progress?.end()
      if (end.state === 'failed') throw errorOf(end.error ?? {}, 500)
      if (end.state === 'cancelled') throw new ShoalError('ABORTED', 'the scrub was cancelled')
      if (flags.json) printJson(io, end)
      else print(io, [summary(end)])
    } catch (error) {
      if (!signal.aborted) throw error
      await client.send('DELETE', PATH, undefined, { patienceMs: 3000 }).catch(() => {})
      throw new ShoalError('ABORTED', 'interrupted: the scrub is cancelled', { cause: error })
    }
  })
}
