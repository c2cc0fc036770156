import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { type Log, ShoalError } from '../../base/index.ts'
import type { PeerId, SharedRecord, SharedRecords } from '../../manager/index.ts'
import type { Device, MecTokens, TokenInfo } from './types.ts'

const TOKEN_PREFIX = 'mec/token/'
const DEVICE_PREFIX = 'mec/ue/'
/** So that ETSI's strings of 32 characters can hold it. */
const UE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/
const MAX_TOKENS = 10_000

interface StoredToken {
  ue: string
  /** SHA-256 of the secret: 256 random bits need no slow hash. */
  hash: string
  createdAt: number
  expiresAt?: number
}

const hash = (secret: string): Buffer => createHash('sha256').update(secret).digest()
/** What a token that nobody made is compared with, so that it takes as long as one that was. */
const NOBODY = hash(randomBytes(32).toString('hex'))

function isStoredToken(value: unknown): value is StoredToken {
  const { ue, hash: digest, createdAt } = (value ?? {}) as Partial<StoredToken>
  return typeof ue === 'string' && typeof digest === 'string' && typeof createdAt === 'number'
}

function isDevice(value: unknown): value is Device {
  const { ue, home } = (value ?? {}) as Partial<Device>
  return typeof ue === 'string' && typeof home === 'string'
}

/** A table of shared records in memory, as it stands: requests are many, and tokens few. */
async function follow<T>(
  records: SharedRecords,
  prefix: string,
  fits: (value: unknown) => value is T,
  onTaken: (value: T) => void = () => {},
): Promise<{ table: Map<string, T>; stop: () => void }> {
  const table = new Map<string, T>()
  const take = ({ key, value }: SharedRecord): void => {
    const name = key.slice(prefix.length)
    if (fits(value)) {
      table.set(name, value)
      onTaken(value)
    } else table.delete(name)
  }
  // Listening comes first: what changes while the table is read is read again or heard of.
  const stop = records.onChange(prefix, take)
  for await (const record of records.entries(prefix)) take(record)
  return { table, stop }
}

/**
 * Tokens of devices. A token is `ID.SECRET`; a shared record under its ID has the secret's hash, so that each node of the cluster
 * knows each device, and knows at once when a token is revoked.
 */
export async function createTokens({
  records,
  self,
  isLive,
  log,
  now = Date.now,
}: {
  records: SharedRecords
  self: PeerId
  isLive: (node: PeerId) => boolean
  log: Log
  now?: () => number
}): Promise<MecTokens> {
  const tokens = await follow(records, TOKEN_PREFIX, isStoredToken)
  const listeners = new Set<(device: Device) => void>()
  const devices = await follow(records, DEVICE_PREFIX, isDevice, (device) => {
    for (const listener of listeners) listener(device)
  })

  const info = (id: string, { ue, createdAt, expiresAt }: StoredToken): TokenInfo => ({
    id,
    ue,
    createdAt,
    ...(expiresAt === undefined ? {} : { expiresAt }),
  })

  /** A device whose home is lost, and whose tokens are all revoked, finds a new one here. */
  async function ensureDevice(ue: string): Promise<void> {
    const known = devices.table.get(ue)
    const orphaned =
      known !== undefined && !isLive(known.home) && ![...tokens.table.values()].some((one) => one.ue === ue)
    if (known !== undefined && !orphaned) return
    if (orphaned) log.warn({ ue, lost: known.home }, 'the home of a device is lost: it starts anew here')
    const device: Device = { ue, home: self, createdAt: now() }
    await records.put(DEVICE_PREFIX + ue, device, { copies: 1 })
  }

  return {
    async create(ue, { expiresInMs } = {}) {
      if (!UE.test(ue)) {
        throw new ShoalError(
          'NAME_INVALID',
          'the name of a device has letters, digits, dots, dashes and underscores, 32 at most',
        )
      }
      if (expiresInMs !== undefined && !(Number.isFinite(expiresInMs) && expiresInMs > 0)) {
        throw new ShoalError('USAGE', 'a token must live for more than no time')
      }
      if (tokens.table.size >= MAX_TOKENS) {
        throw new ShoalError('USAGE', `there are ${MAX_TOKENS} tokens: revoke some`)
      }
      await ensureDevice(ue)
      const id = randomBytes(9).toString('base64url')
      const secret = randomBytes(32).toString('base64url')
      const stored: StoredToken = {
        ue,
        hash: hash(secret).toString('base64url'),
        createdAt: now(),
        ...(expiresInMs === undefined ? {} : { expiresAt: Math.round(now() + expiresInMs) }),
      }
      await records.put(TOKEN_PREFIX + id, stored, { copies: 1 })
      log.info({ ue, id }, 'a token was made')
      return { ...info(id, stored), token: `${id}.${secret}` }
    },
    list: () =>
      [...tokens.table]
        .map(([id, stored]) => info(id, stored))
        .sort((a, b) => a.ue.localeCompare(b.ue) || a.createdAt - b.createdAt || a.id.localeCompare(b.id)),
    async revoke(idOrUe) {
      const found = [...tokens.table].filter(([id, { ue }]) => id === idOrUe || ue === idOrUe)
      for (const [id, { ue }] of found) {
        await records.put(TOKEN_PREFIX + id, undefined, { copies: 1 })
        log.info({ ue, id }, 'a token was revoked')
      }
      return found.length
    },
    check(token) {
      const dot = token.indexOf('.')
      const stored = tokens.table.get(token.slice(0, Math.max(dot, 0)))
      const expected = stored ? Buffer.from(stored.hash, 'base64url') : NOBODY
      const given = hash(token.slice(dot + 1))
      const fits = given.length === expected.length && timingSafeEqual(given, expected)
      if (!stored || !fits) throw new ShoalError('UNAUTHORIZED', 'nobody has this token')
      if (stored.expiresAt !== undefined && stored.expiresAt <= now()) {
        throw new ShoalError('UNAUTHORIZED', 'the token has expired')
      }
      const device = devices.table.get(stored.ue)
      // Its token came here before its own record did.
      if (!device) throw new ShoalError('BUSY', 'this node does not know the device yet')
      return device
    },
    device: (ue) => devices.table.get(ue),
    devices: () => [...devices.table.values()],
    onDevice(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close() {
      tokens.stop()
      devices.stop()
    },
  }
}
