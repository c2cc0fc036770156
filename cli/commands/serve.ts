import { formatHostPort } from '../address.ts'
import { loadConfig } from '../config.ts'
import { createLog } from '../log.ts'
import { printJson } from '../output.ts'
import type { Rooms } from '../rooms.ts'
import { startDaemon } from '../serve.ts'
import { readVersion } from '../version.ts'
import type { Context } from './context.ts'

/** Everything must be over this long after the signal, however a part hangs. */
const LIMIT_MS = 4800

export interface ServeFlags {
  json?: boolean
  config?: string
  /** The settings that were given, by name. */
  settings: Record<string, string | string[] | boolean>
}

/** `shoal serve`: runs until SIGTERM or SIGINT. The one line on stdout says that it serves, and where. */
export async function serveCommand(
  context: Context,
  flags: ServeFlags,
  loadRooms: () => Promise<Rooms>,
): Promise<void> {
  const { io, env, signal } = context
  const config = await loadConfig({ flags: flags.settings, env, file: flags.config ?? env.SHOAL_CONFIG })
  const log = await createLog(config.logLevel)
  for (const warning of config.warnings) log.warn({}, warning)
  process.on('unhandledRejection', (error) => log.error({ err: error }, 'a promise was left to fail alone'))
  process.on('uncaughtException', (error) => {
    log.error({ err: error }, 'an error that nobody handled ends the daemon')
    process.exit(1)
  })

  // A signal counts from the first moment on: starting may take time, too.
  let limit: NodeJS.Timeout | undefined
  signal.addEventListener('abort', () => {
    limit = setTimeout(() => {
      log.error({}, 'a part did not close in time')
      process.exit(1)
    }, LIMIT_MS)
  })
  try {
    const version = readVersion()
    const daemon = await startDaemon(config, { rooms: await loadRooms(), log, version })
    const registry = formatHostPort(daemon.addresses.registry)
    const api = formatHostPort(daemon.addresses.api)
    if (flags.json) printJson(io, { id: daemon.id, name: config.name, registry, api })
    else io.out.write(`${config.name} serves: registry ${registry}, api ${api}, id ${daemon.id}\n`)

    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve))
    log.info({}, 'stopping')
    await daemon.close()
  } finally {
    clearTimeout(limit)
  }
  // A forgotten timer or socket somewhere must not keep a stopped daemon alive.
  process.exit(0)
}
