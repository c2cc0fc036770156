import type { Digest, Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { RepositoryRef } from '../types.ts'
import { labelOf } from './ask.ts'
import { createBounded } from './bounded.ts'

/** A link unused for so long is proved again. */
const KEEP_MS = 90 * 24 * 3_600_000

/**
 * How sure it is that a digest is part of a repository. `proven`: upstream gave it, or said that it is there, under that
 * repository. `named`: a manifest of the repository names it, which whoever pushed the manifest may have made up.
 */
export type Level = 'named' | 'proven'

/** Which digests belong to which repositories. Survives restarts. */
export interface Links {
  level(ref: RepositoryRef, digest: Digest): Promise<Level | undefined>
  add(ref: RepositoryRef, digests: Digest[], level: Level): void
  sweep(): Promise<void>
}

export function createLinks(parts: { store: BlockStore; log: Log; now: () => number }): Links {
  const { log, now } = parts
  const records = parts.store.records<{ level: Level; at: number }>('proxy.links')
  const cache = createBounded<Level>(5_000)
  const keyOf = (ref: RepositoryRef, digest: Digest): string => `${labelOf(ref)}@${digest}`

  async function level(ref: RepositoryRef, digest: Digest): Promise<Level | undefined> {
    const key = keyOf(ref, digest)
    const known = cache.get(key)
    if (known) return known
    const record = await records.get(key)
    // Something surer may have come up during the read.
    if (record && !cache.get(key)) cache.set(key, record.level)
    return cache.get(key)
  }

  async function write(key: string, level: Level): Promise<void> {
    if (level === 'named') {
      const record = await records.get(key)
      if (record && cache.get(key) === 'named') cache.set(key, record.level)
      if (record || cache.get(key) === 'proven') return
    }
    await records.put(key, { level, at: now() })
  }

  function add(ref: RepositoryRef, digests: Digest[], level: Level): void {
    for (const digest of digests) {
      const key = keyOf(ref, digest)
      const known = cache.get(key)
      if (known === level || known === 'proven') continue
      cache.set(key, level)
      write(key, level).catch((error: unknown) =>
        log.warn({ error: String(error) }, 'could not remember what belongs to a repository'),
      )
    }
  }

  async function sweep(): Promise<void> {
    for await (const [key, { at }] of records.entries()) if (now() - at > KEEP_MS) await records.delete(key)
  }

  return { level, add, sweep }
}
