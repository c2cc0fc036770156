import { setTimeout as sleep } from 'node:timers/promises'
import { createTurns, type Digest, isShoalError, type Log } from '../../../base/index.ts'
import type { BlockStore } from '../../../blockstore/index.ts'
import type { Origin, StoredBlob, Storing } from '../../../manager/index.ts'

/** What an image is made of, and where that comes from; the proxy says so. */
export interface ImageSource {
  /** The name that it is stored under: its reference in full. @throws NAME_INVALID | DIGEST_INVALID */
  storedName(reference: string): string
  collect(
    reference: string,
    signal: AbortSignal,
  ): Promise<{
    name: string
    digest: Digest
    blobs: StoredBlob[]
    anonymous: boolean
    origin: (blob: StoredBlob) => Origin
  }>
}

const COPIES = 2
const AT_ONCE = 2
const RETRIES_MS = [2000, 15e3, 60e3]
/** A tag that was looked at so lately is not asked about again. */
const FRESH_MS = 30e3
export const IMAGES = 'offload-images'

export interface Copying {
  /** Has the image copied into the site, in the background, where it is not stored there already. */
  want(name: string): void
  /** Nobody needs it any more: what this manager had stored becomes cache. */
  release(name: string): Promise<void>
  isUnderWay(name: string): boolean
  /** Why the last attempt came to nothing. */
  trouble(name: string): string | undefined
  /** What the image is made of, once that is known. */
  blobs(name: string): StoredBlob[] | undefined
  onChange(listener: (name: string) => void): () => void
  close(): Promise<void>
}

/** The local image repository of the applications: each image is stored in the site once, whoever registers it. */
export async function createCopying(deps: {
  images: ImageSource
  storing: Storing
  store: BlockStore
  log: Log
  now?: () => number
}): Promise<Copying> {
  const { images, storing, log, now = Date.now } = deps
  const closing = new AbortController()
  const { signal } = closing
  const turns = createTurns(AT_ONCE)
  const under = new Map<string, Promise<void>>()
  const known = new Map<string, { blobs: StoredBlob[]; at: number }>()
  const troubles = new Map<string, string>()
  const wanted = new Set<string>()
  const listeners = new Set<(name: string) => void>()
  /** Images that this manager had stored, and not somebody else: only they may be forgotten. */
  const records = deps.store.records<{ at: number }>(IMAGES)

  async function copy(name: string): Promise<void> {
    const image = await images.collect(name, signal)
    known.set(name, { blobs: image.blobs, at: now() })
    tell(name)
    const { digest, blobs, anonymous, origin } = image
    const stored = await storing.find(image.name)
    if (stored?.digest === digest) return
    if (stored === undefined) await records.put(image.name, { at: now() })
    const copies = stored?.copies ?? COPIES
    await storing.store(
      { name: image.name, digest, copies, blobs, ...(anonymous ? { anonymous } : {}) },
      { origin, signal },
    )
  }

  function tell(name: string): void {
    for (const listener of listeners) listener(name)
  }

  async function persist(name: string): Promise<void> {
    for (const wait of [0, ...RETRIES_MS]) {
      if (wait > 0) await sleep(wait, undefined, { signal })
      if (!wanted.has(name)) return
      try {
        await turns.run(name, () => copy(name))
        troubles.delete(name)
        return
      } catch (error) {
        if (signal.aborted) return
        troubles.set(name, `${name} could not be copied into the site: ${(error as Error).message}`)
        log.warn({ err: error, image: name }, 'an image could not be copied into the site')
        tell(name)
        if (isShoalError(error, 'NOT_FOUND', 'DENIED', 'UNAUTHORIZED', 'NAME_INVALID')) return
      }
    }
  }

  return {
    want(name) {
      wanted.add(name)
      const at = known.get(name)?.at
      if (under.has(name) || signal.aborted) return
      if (at !== undefined && now() - at < FRESH_MS && !troubles.has(name)) return
      const run = persist(name)
        .catch(() => {})
        .finally(() => {
          under.delete(name)
          tell(name)
        })
      under.set(name, run)
    },
    async release(name) {
      wanted.delete(name)
      known.delete(name)
      troubles.delete(name)
      await under.get(name)
      if (wanted.has(name)) return
      if ((await records.get(name)) === undefined) return
      await storing.forget(name, signal)
      await records.delete(name)
    },
    isUnderWay: (name) => under.has(name),
    trouble: (name) => troubles.get(name),
    blobs: (name) => known.get(name)?.blobs,
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    async close() {
      closing.abort()
      await Promise.all(under.values())
    },
  }
}
