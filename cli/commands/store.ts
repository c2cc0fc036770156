import { formatBytes, ShoalError } from '../../base/index.ts'
import type { StoringStatus } from '../api/storings.ts'
import { print, printJson } from '../output.ts'
import { createStoreProgress } from '../progress.ts'
import { formatDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'
import { finish } from './follow.ts'

function summary({ name, reference, digest, copies, bytes, ...job }: StoringStatus): string[] {
  const ms = (job.finishedAt ?? job.startedAt) - job.startedAt
  return [
    `${name ?? reference}${digest === undefined || name?.includes('@') ? '' : `@${digest}`}`,
    `${formatBytes(bytes)} in ${job.blobs} blobs, ${copies} ${copies === 1 ? 'copy' : 'copies'} in the site, in ${formatDuration(ms)}`,
  ]
}

/** `shoal store`: has the site keep an image in so many copies. An interrupt cancels it. */
export async function storeCommand(
  context: Context,
  reference: string,
  flags: ClientFlags & { copies: string; platform?: string; allPlatforms?: boolean },
): Promise<void> {
  const { io, signal } = context
  if (!/^[1-9]\d{0,3}$/.test(flags.copies)) {
    throw new ShoalError('USAGE', `--copies must be a number from 1 on, not ${flags.copies}`)
  }
  if (flags.allPlatforms && flags.platform !== undefined) {
    throw new ShoalError('USAGE', 'either --platform or --all-platforms')
  }
  const platform = flags.allPlatforms ? 'all' : flags.platform
  await withClient(context, flags, async (client) => {
    const started = await client.send<StoringStatus>(
      'POST',
      '/api/v1/stored',
      { reference, copies: Number(flags.copies), ...(platform === undefined ? {} : { platform }) },
      // Not cut short by an interrupt: whoever does not know the storing's name cannot cancel it.
      { patienceMs: 10e3 },
    )
    const progress = flags.json ? undefined : createStoreProgress(io.err)
    const path = `/api/v1/storings/${started.id}`
    const onUpdate = (storing: StoringStatus): void => progress?.update(storing)
    const end = await finish(client, started, { what: 'storing', path, onUpdate, signal }).finally(() =>
      progress?.end(),
    )
    if (flags.json) printJson(io, end)
    else print(io, summary(end))
  })
}

/** `shoal forget`: the site need not keep the image any longer. */
export async function forgetCommand(context: Context, reference: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    await client.send('DELETE', `/api/v1/stored/${encodeURIComponent(reference)}`, undefined, { signal })
    if (flags.json) printJson(io, { forgotten: reference })
    else print(io, [`${reference} is not stored any longer; what is here of it may be evicted`])
  })
}

/** `shoal repair`: makes again what copies are missing. */
export async function repairCommand(context: Context, flags: ClientFlags & { now?: boolean }): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const done = await client.send<{ copied: number; bytes: number; lost: number }>(
      'POST',
      '/api/v1/repair',
      { now: flags.now === true },
      { signal, patienceMs: 0 },
    )
    if (flags.json) return printJson(io, done)
    const lost = done.lost > 0 ? `; of ${done.lost} blocks there is no copy in the site` : ''
    print(io, [`copied ${done.copied} blocks, ${formatBytes(done.bytes)}${lost}`])
  })
}
