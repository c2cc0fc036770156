import type { Log } from '../../base/index.ts'
import type { PeerId, Storing } from '../../manager/index.ts'
import type { BaseImages } from './base-image.ts'
import type { CheckpointDocument } from './document.ts'
import type { Published } from './published.ts'
import { STORED_LABEL } from './slots.ts'

const EVERY_MS = 60_000
/**
 * So long no checkpoint must have named what is stored before it counts as left behind: it may belong to one that is just being made, or whose
 * record has not come to this node yet.
 */
const GRACE_MS = 60 * 60_000
/** Of two nodes neither knows whose clock is right: others leave an expired one this much longer to the node that made it. */
const LATER_MS = 10 * 60_000

/**
 * Takes away what is over: any node does it for its site, and all of them may. The records of expired checkpoints, the blobs that no
 * checkpoint of the site needs, and base images that were stored for checkpoints' sake.
 */
export interface Expiry {
  sweep(signal: AbortSignal, grace?: number): Promise<void>
  /** The record first, so that no node offers what is going. */
  remove(document: CheckpointDocument, signal: AbortSignal): Promise<void>
  close(): Promise<void>
}

export function createExpiry(deps: {
  published: Published
  storing: Pick<Storing, 'forget' | 'ofRepository'>
  images: BaseImages
  self: PeerId
  site: string
  log: Log
  now: () => number
  everyMs?: number
}): Expiry {
  const { published, storing, images, self, site, log, now, everyMs = EVERY_MS } = deps
  const stop = new AbortController()
  /** What nothing names, and since when this node sees that. */
  const orphans = new Map<string, number>()
  let running: Promise<void> = Promise.resolve()
  let timer = again()

  async function remove(document: CheckpointDocument, signal: AbortSignal): Promise<void> {
    if (!(await published.remove(document, signal)) || document.site !== site) return
    await storing.forget(document.storedAs, signal)
    const { imageStoredAs: image } = document
    if (image !== undefined && !(await needed()).images.has(image)) await images.letGo(image, signal)
  }

  async function needed(): Promise<{ stored: Set<string>; images: Set<string> }> {
    const stored = new Set<string>()
    const used = new Set<string>()
    for await (const document of published.all()) {
      if (document.site !== site) continue
      stored.add(document.storedAs)
      if (document.imageStoredAs !== undefined) used.add(document.imageStoredAs)
    }
    return { stored, images: used }
  }

  async function sweep(signal: AbortSignal, grace = GRACE_MS): Promise<void> {
    for (const document of await Array.fromAsync(published.all())) {
      const { expiresAt = Number.POSITIVE_INFINITY, node } = document
      if (now() < expiresAt + (node === self ? 0 : LATER_MS)) continue
      signal.throwIfAborted()
      await remove(document, signal)
      log.info({ checkpoint: `${document.name}:${document.version}` }, 'a checkpoint has expired')
    }
    const left = await needed()
    const stored = await storing.ofRepository(STORED_LABEL)
    const unnamed = stored.filter(({ name }) => !left.stored.has(name))
    const unused = (await images.kept()).filter((name) => !left.images.has(name))
    // Names of stored blobs are used again: what was stored later is something else.
    const orphaned = new Map<string, () => Promise<unknown>>([
      ...unnamed.map(
        ({ name, storedAt }) => [`${name} ${storedAt}`, () => storing.forget(name, signal)] as const,
      ),
      ...unused.map((name) => [name, () => images.letGo(name, signal)] as const),
    ])
    for (const key of orphans.keys()) if (!orphaned.has(key)) orphans.delete(key)
    for (const [key, letGo] of orphaned) {
      const since = orphans.get(key) ?? now()
      orphans.set(key, since)
      if (now() - since < grace) continue
      await letGo()
      orphans.delete(key)
    }
  }

  function again(): NodeJS.Timeout {
    // Not all nodes at the same moment: one does it, and the others find it done.
    return setTimeout(
      () => {
        running = sweep(stop.signal)
          .catch((error) => {
            if (!stop.signal.aborted)
              log.warn({ error: String(error) }, 'checkpoints that are over were not all taken away')
          })
          .finally(() => {
            if (!stop.signal.aborted) timer = again()
          })
      },
      everyMs * (0.5 + Math.random()),
    ).unref()
  }

  return {
    sweep,
    remove,
    async close() {
      stop.abort()
      clearTimeout(timer)
      await running
    },
  }
}
