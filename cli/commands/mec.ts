import { readFile } from 'node:fs/promises'
import { errnoOf, ShoalError } from '../../base/index.ts'
import type { Offer, TokenInfo } from '../../integration/index.ts'
import { formatAgo, print, printJson, table } from '../output.ts'
import { parseDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

/** `shoal mec token create`: the token alone on stdout, as it is told this once. */
export async function mecTokenCreateCommand(
  context: Context,
  ue: string,
  flags: ClientFlags & { expires?: string },
): Promise<void> {
  const { io, signal } = context
  const expiresInMs = flags.expires === undefined ? undefined : parseDuration(flags.expires)
  await withClient(context, flags, async (client) => {
    const body = { ue, ...(expiresInMs === undefined ? {} : { expiresInMs }) }
    const made = await client.send<TokenInfo & { token: string }>('POST', '/api/v1/mec/tokens', body, {
      signal,
    })
    if (flags.json) printJson(io, made)
    else print(io, [made.token])
  })
}

function expiry({ expiresAt }: TokenInfo, now: number): string {
  if (expiresAt === undefined) return 'never'
  return expiresAt <= now ? 'expired' : new Date(expiresAt).toISOString()
}

/** `shoal mec token ls` */
export async function mecTokenListCommand(context: Context, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const tokens = await client.get<TokenInfo[]>('/api/v1/mec/tokens', { signal })
    if (flags.json) return printJson(io, tokens)
    if (tokens.length === 0) return print(io, ['no tokens yet'])
    const now = Date.now()
    const rows = tokens.map((token) => [
      token.ue,
      token.id,
      formatAgo(token.createdAt, now),
      expiry(token, now),
    ])
    print(io, table([{ title: 'DEVICE' }, { title: 'ID' }, { title: 'MADE' }, { title: 'EXPIRES' }], rows))
  })
}

/** `shoal mec token revoke` */
export async function mecTokenRevokeCommand(
  context: Context,
  idOrUe: string,
  flags: ClientFlags,
): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const path = `/api/v1/mec/tokens/${encodeURIComponent(idOrUe)}`
    const { revoked } = await client.send<{ revoked: number }>('DELETE', path, undefined, { signal })
    if (flags.json) printJson(io, { revoked })
    else print(io, [`${revoked} ${revoked === 1 ? 'token is' : 'tokens are'} revoked`])
  })
}

async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, 'utf8'))
  } catch (cause) {
    const why = errnoOf(cause) ?? 'it is no JSON'
    throw new ShoalError('USAGE', `cannot read ${file}: ${why}`, { cause })
  }
}

/** `shoal mec app add` */
export async function mecAppAddCommand(context: Context, file: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  const body = await readJson(file)
  await withClient(context, flags, async (client) => {
    const offer = await client.send<Offer>('POST', '/api/v1/mec/apps', body, { signal })
    if (flags.json) printJson(io, offer)
    else print(io, [`${offer.appName} of ${offer.appProvider} is offered as ${offer.appDId}`])
  })
}

/** `shoal mec app ls` */
export async function mecAppListCommand(context: Context, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const offers = await client.get<Offer[]>('/api/v1/mec/apps', { signal })
    if (flags.json) return printJson(io, offers)
    if (offers.length === 0) return print(io, ['no applications are offered'])
    const rows = offers.map((offer) => [
      offer.appDId,
      offer.appName,
      offer.appProvider,
      offer.appSoftVersion,
      offer.devices?.join(',') ?? 'all',
    ])
    const titles = ['APPDID', 'NAME', 'PROVIDER', 'VERSION', 'DEVICES']
    print(
      io,
      table(
        titles.map((title) => ({ title })),
        rows,
      ),
    )
  })
}

/** `shoal mec app rm` */
export async function mecAppRemoveCommand(
  context: Context,
  appDId: string,
  flags: ClientFlags,
): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    await client.send('DELETE', `/api/v1/mec/apps/${encodeURIComponent(appDId)}`, undefined, { signal })
    if (flags.json) printJson(io, { removed: appDId })
    else print(io, [`${appDId} is not offered any longer`])
  })
}
