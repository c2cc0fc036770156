import { createHmac } from 'node:crypto'
import type { Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Hints, Storing } from '../../manager/types.ts'
import type { Credential, OfflinePolicy, RepositoryRef, Upstream } from '../types.ts'
import { labelOf } from './ask.ts'
import { createBounded } from './bounded.ts'
import { lookUp } from './hints.ts'

const HOUR = 3_600_000
/** Longest that somebody counts as seen before: a Bearer token stands for one log-in, anything else for a client. */
const KNOWN_MS = { b: 24 * HOUR, other: 30 * 24 * HOUR }
/** The subject that stands for whoever comes without credentials. */
export const ANYBODY = 'anonymous'

/** Who was seen to be let in where. A subject is a credential's hash, or `anonymous`, who stands for everybody. */
export interface Access {
  subjectOf(host: string, credential: Credential): Promise<string>
  /** Upstream let the subject, or anybody, read the repository within the last `entitlementTtlMs`. */
  entitled(ref: RepositoryRef, subject: string): boolean
  /** Upstream did so just now. */
  grant(ref: RepositoryRef, subject: string): void
  /** Upstream refused just now. */
  revoke(ref: RepositoryRef, subject: string): void
  /** This node has seen it at some time. */
  seen(ref: RepositoryRef, subject: string): Promise<boolean>
  /** The policy is to let everybody in while upstream cannot be asked. */
  readonly open: boolean
  /** Whether the policy lets the subject in while upstream cannot be asked. */
  offline(ref: RepositoryRef, subject: string, signal: AbortSignal): Promise<boolean>
  /** Forgets what is too old to count. */
  sweep(): Promise<void>
}

export function createAccess(parts: {
  store: BlockStore
  hints: Hints
  storing: Pick<Storing, 'ofRepository'>
  upstream: Upstream
  /** Known to all nodes of the cluster, so that their hashes of a credential are the same, and to nobody else. */
  salt: string | Uint8Array
  policy: OfflinePolicy
  ttlMs: number
  log: Log
  now: () => number
}): Access {
  const { hints, storing, upstream, policy, ttlMs, log, now } = parts
  const records = parts.store.records<{ at: number }>('proxy.access')
  const grantedAt = createBounded<number>(5_000)
  const hash = (text: string): string =>
    createHmac('sha256', parts.salt).update(text).digest('hex').slice(0, 40)
  const keyOf = (ref: RepositoryRef, subject: string): string => `${labelOf(ref)} ${subject}`
  const hintOf = (ref: RepositoryRef, subject: string): string => `may/${labelOf(ref)}/${subject}`
  const shrug = (error: unknown): void =>
    log.warn({ error: String(error) }, 'could not remember who may read what')

  async function subjectOf(host: string, credential: Credential): Promise<string> {
    if (credential.kind === 'client') {
      const kind = /^bearer /i.test(credential.authorization) ? 'b' : 'c'
      return `${kind}${hash(`${host}\n${credential.authorization}`)}`
    }
    const identity = await upstream.identity(host)
    return identity === undefined ? ANYBODY : `c${hash(`${host}\n${identity}`)}`
  }

  const isFresh = (key: string): boolean => now() - (grantedAt.get(key) ?? Number.NEGATIVE_INFINITY) < ttlMs

  function grant(ref: RepositoryRef, subject: string): void {
    const key = keyOf(ref, subject)
    const news = !isFresh(key)
    const at = now()
    grantedAt.set(key, at)
    if (!news) return
    records.put(key, { at }).catch(shrug)
    // A token stands for one client's log-in of some minutes: no neighbour will ever see it.
    if (!subject.startsWith('b')) hints.publish(hintOf(ref, subject), { at })
  }

  function revoke(ref: RepositoryRef, subject: string): void {
    const key = keyOf(ref, subject)
    grantedAt.delete(key)
    records
      .get(key)
      .then(async (record) => {
        if (!record || isFresh(key)) return
        await records.delete(key)
        hints.publish(hintOf(ref, subject), null)
      })
      .catch(shrug)
  }

  const counts = (subject: string, at: number): boolean =>
    now() - at < (subject.startsWith('b') ? KNOWN_MS.b : KNOWN_MS.other)

  async function seen(ref: RepositoryRef, subject: string): Promise<boolean> {
    const record = await records.get(keyOf(ref, subject))
    return record !== undefined && counts(subject, record.at)
  }

  async function heard(ref: RepositoryRef, subject: string, signal: AbortSignal): Promise<boolean> {
    const value = await lookUp(hints, hintOf(ref, subject), signal)
    const at = typeof value === 'object' && value !== null && 'at' in value ? value.at : undefined
    return typeof at === 'number' && counts(subject, at)
  }

  async function offline(ref: RepositoryRef, subject: string, signal: AbortSignal): Promise<boolean> {
    if (policy !== 'known') return policy === 'open'
    // Read by nobody in particular when it was stored: the record is everywhere, the hints below on a few nodes.
    if ((await storing.ofRepository(labelOf(ref))).some((image) => image.anonymous)) return true
    const subjects = [...new Set([subject, ANYBODY])]
    for (const one of subjects) if (await seen(ref, one)) return true
    const answers = await Promise.all(subjects.map((one) => heard(ref, one, signal)))
    return answers.includes(true)
  }

  async function sweep(): Promise<void> {
    for await (const [key, { at }] of records.entries()) {
      if (!counts(key.slice(key.indexOf(' ') + 1), at)) await records.delete(key)
    }
  }

  return {
    subjectOf,
    entitled: (ref, subject) => isFresh(keyOf(ref, subject)) || isFresh(keyOf(ref, ANYBODY)),
    grant,
    revoke,
    seen,
    open: policy === 'open',
    offline,
    sweep,
  }
}
