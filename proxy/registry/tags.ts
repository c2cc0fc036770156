import { type Digest, isDigest, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore, Records } from '../../blockstore/types.ts'
import type { Hints, Storing } from '../../manager/types.ts'
import type { RepositoryRef } from '../types.ts'
import type { Access } from './access.ts'
import { type Ask, type AskHead, labelOf } from './ask.ts'
import { createBounded } from './bounded.ts'
import { isOutage } from './failure.ts'
import { type Gate, manifestHint } from './gate.ts'
import { lookUp } from './hints.ts'
import type { Links } from './links.ts'
import { ACCEPT_ALL, acceptsIndex, cleanMediaType, normalizeAccept } from './media.ts'
import { createShare } from './share.ts'

/** Where there is a last known digest, upstream has so long to take a connection. */
const DOUBT_MS = 1500

/** What a tag was when it was last confirmed. */
export interface TagRecord {
  digest: Digest
  mediaType?: string
  /** ms since the epoch, of the confirmation. */
  at: number
}

export interface Resolved extends TagRecord {
  /** Upstream could not be asked: this is what was known before. */
  stale: boolean
}

export interface Tags {
  /**
   * What a tag names now, with the asker's rights checked on the way; the last known while upstream is unreachable.
   * @throws NOT_FOUND | UNAUTHORIZED | DENIED | UPSTREAM_STATUS | UPSTREAM_UNREACHABLE
   */
  resolve(ask: Ask, tag: string): Promise<Resolved>
  /** The tags of a repository that this node resolved at some time, sorted. */
  known(ref: RepositoryRef): Promise<{ tag: string; record: TagRecord }[]>
}

/** Keys are `HOST/REPOSITORY:TAG`. */
export function tagRecords(store: BlockStore): Records<TagRecord> {
  return store.records<TagRecord>('proxy.tags')
}

export function createTags(parts: {
  store: BlockStore
  hints: Hints
  storing: Pick<Storing, 'find'>
  /** The blob is whole on this disk. */
  holds: (digest: Digest) => Promise<boolean>
  head: AskHead
  access: Access
  gate: Gate
  links: Links
  /** Upstream need not be waited for as long as otherwise. */
  doubt: (ref: RepositoryRef) => void
  ttlMs: number
  log: Log
  now: () => number
}): Tags {
  const { hints, storing, holds, head, access, gate, links, doubt, ttlMs, log, now } = parts
  const records = tagRecords(parts.store)
  const fresh = createBounded<TagRecord>(5_000)
  /** Raised when a tag is forgotten, so that all that was cached under it, for whatever Accept, no longer counts. */
  const generations = createBounded<number>(5_000)
  const share = createShare<Resolved>()

  async function resolve(ask: Ask, tag: string): Promise<Resolved> {
    const name = `${labelOf(ask.ref)}:${tag}`
    const accept = ask.accept ?? ACCEPT_ALL
    const key = `${name} ${generations.get(name) ?? 0} ${normalizeAccept(accept)}`
    const cached = fresh.get(key)
    if (cached && now() - cached.at < ttlMs && access.entitled(ask.ref, ask.subject)) {
      return { ...cached, stale: false }
    }
    try {
      return await share(`${key} ${ask.subject}`, ask.signal, async (signal) => {
        const record = await confirm({ ...ask, accept, signal }, tag)
        fresh.set(key, record)
        await remember(ask.ref, name, record, acceptsIndex(accept))
        return { ...record, stale: false }
      })
    } catch (error) {
      if (isShoalError(error, 'NOT_FOUND')) await forget(ask, name)
      if (!isOutage(error) || ask.signal.aborted) throw error
      await gate.offline(ask, error)
      const last = await lastKnown(name, ask.signal)
      if (!last) throw error
      links.add(ask.ref, [last.digest], 'named')
      log.warn({ tag: name, digest: last.digest, error: error.message }, 'serving the last known digest')
      return { ...last, stale: true }
    }
  }

  async function confirm(ask: Ask, tag: string): Promise<TagRecord> {
    const doubting = setTimeout(async () => {
      const last = await lastKnown(`${labelOf(ask.ref)}:${tag}`, ask.signal).catch(() => undefined)
      if (last) doubt(ask.ref)
    }, DOUBT_MS)
    const found = await gate
      .noting(ask, () => head(ask, 'manifests', tag))
      .finally(() => clearTimeout(doubting))
    const { digest } = found
    if (digest === undefined || !isDigest(digest))
      throw new ShoalError('PROTOCOL', `upstream does not say what ${tag} is`)
    links.add(ask.ref, [digest], 'proven')
    const mediaType = cleanMediaType(found.mediaType)
    return { digest, at: now(), ...(mediaType === undefined ? {} : { mediaType }) }
  }

  /** An old client's Accept makes some registries convert: that digest is only kept where there is no better one. */
  async function remember(
    ref: RepositoryRef,
    name: string,
    record: TagRecord,
    whole: boolean,
  ): Promise<void> {
    try {
      if (!whole && (await records.get(name))) return
      await records.put(name, record)
    } catch (error) {
      log.warn({ tag: name, error: String(error) }, 'could not remember a tag')
    }
    hints.publish(`tag/${name}`, record)
    hints.publish(manifestHint(labelOf(ref), record.digest), { digest: record.digest })
  }

  /** Some registries say 404 to whom they do not know: that must not make a tag vanish for the others. */
  async function forget(ask: Ask, name: string): Promise<void> {
    if (!access.entitled(ask.ref, ask.subject) && !(await access.seen(ask.ref, ask.subject))) return
    generations.set(name, (generations.get(name) ?? 0) + 1)
    if (!(await records.get(name))) return
    await records.delete(name)
    hints.publish(`tag/${name}`, null)
  }

  /** Of an image that the site stores it is known that it can be had; of what a tag became since, only where it is here. */
  async function lastKnown(name: string, signal: AbortSignal): Promise<TagRecord | undefined> {
    const last = await records.get(name)
    const stored = await storing.find(name)
    if (!stored) return last ?? (await ofNeighbours(name, signal))
    if (last && (last.digest === stored.digest || (await holds(last.digest)))) return last
    return { digest: stored.digest, at: Math.min(stored.storedAt ?? 0, now()) }
  }

  async function ofNeighbours(name: string, signal: AbortSignal): Promise<TagRecord | undefined> {
    const value = await lookUp(hints, `tag/${name}`, signal)
    if (typeof value !== 'object' || value === null) return undefined
    const { digest, at, mediaType } = value as Record<string, unknown>
    if (typeof digest !== 'string' || !isDigest(digest) || typeof at !== 'number') return undefined
    const type = typeof mediaType === 'string' ? cleanMediaType(mediaType) : undefined
    return { digest, at: Math.min(at, now()), ...(type === undefined ? {} : { mediaType: type }) }
  }

  async function known(ref: RepositoryRef): Promise<{ tag: string; record: TagRecord }[]> {
    const prefix = `${labelOf(ref)}:`
    const found: { tag: string; record: TagRecord }[] = []
    for await (const [key, record] of records.entries(prefix)) {
      found.push({ tag: key.slice(prefix.length), record })
    }
    return found.sort((a, b) => (a.tag < b.tag ? -1 : 1))
  }

  return { resolve, known }
}
