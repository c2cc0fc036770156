import { type Client, createClient } from '../client.ts'
import { loadClientConfig } from '../config.ts'
import type { Io } from '../output.ts'
import { readToken } from '../token.ts'

/** What a command runs with. */
export interface Context {
  io: Io
  env: Record<string, string | undefined>
  /** Fires at the first SIGINT or SIGTERM. */
  signal: AbortSignal
}

/** The options that every command has which talks to a daemon. */
export interface ClientFlags {
  json?: boolean
  api?: string
  apiToken?: string
  config?: string
}

/** Finds the daemon: --api, SHOAL_API, the configuration file, the default. */
export async function openClient(context: Context, flags: ClientFlags): Promise<Client> {
  const { api, apiToken } = await loadClientConfig({
    flags: {
      ...(flags.api === undefined ? {} : { api: flags.api.replace(/^http:\/\/|\/+$/g, '') }),
      ...(flags.apiToken === undefined ? {} : { 'api-token': flags.apiToken }),
    },
    env: context.env,
    file: flags.config ?? context.env.SHOAL_CONFIG,
  })
  return createClient({ api, token: await readToken(apiToken) })
}

/** Runs `use` with a client and closes it. */
export async function withClient<T>(
  context: Context,
  flags: ClientFlags,
  use: (client: Client) => Promise<T>,
): Promise<T> {
  const client = await openClient(context, flags)
  try {
    return await use(client)
  } finally {
    client.close()
  }
}
