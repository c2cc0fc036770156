import { formatBytes } from '../../base/index.ts'
import { print, printJson } from '../output.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

/** `shoal gc` */
export async function gcCommand(context: Context, flags: ClientFlags & { all?: boolean }): Promise<void> {
  await withClient(context, flags, async (client) => {
    const freed = await client.send<{ blobs: number; bytes: number }>(
      'POST',
      '/api/v1/gc',
      flags.all ? { all: true } : undefined,
      { signal: context.signal, patienceMs: 0 },
    )
    if (flags.json) return printJson(context.io, freed)
    print(context.io, [`freed ${formatBytes(freed.bytes)} in ${freed.blobs} blobs`])
  })
}
