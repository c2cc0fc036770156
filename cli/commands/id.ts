import { join } from 'node:path'
import { isShoalError, ShoalError } from '../../base/index.ts'
import { loadConfig } from '../config.ts'
import { print, printJson } from '../output.ts'
import { readPeerId } from '../peer-id.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

/** `shoal id`: of the daemon, or of the data directory when none runs or one is named. */
export async function idCommand(context: Context, flags: ClientFlags & { dataDir?: string }): Promise<void> {
  const id = await findId(context, flags)
  if (flags.json) printJson(context.io, { id })
  else print(context.io, [id])
}

async function findId(context: Context, flags: ClientFlags & { dataDir?: string }): Promise<string> {
  const onDisk = async (): Promise<string> => {
    const { dataDir } = await loadConfig({
      flags: flags.dataDir === undefined ? {} : { 'data-dir': flags.dataDir },
      env: context.env,
      file: flags.config ?? context.env.SHOAL_CONFIG,
    })
    return await readPeerId(join(dataDir, 'identity.pem'))
  }
  if (flags.dataDir !== undefined) return await onDisk()
  try {
    return await withClient(context, flags, async (client) => {
      return (await client.get<{ id: string }>('/api/v1/status', { signal: context.signal })).id
    })
  } catch (error) {
    if (!isShoalError(error, 'NO_DAEMON')) throw error
    return await onDisk().catch((cause: unknown) => {
      throw new ShoalError('NO_DAEMON', `${error.message} (and ${(cause as Error).message})`, { cause })
    })
  }
}
