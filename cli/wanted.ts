import { setTimeout as sleep } from 'node:timers/promises'
import { type Log, ShoalError } from '../base/index.ts'
import type { Manager } from '../manager/index.ts'
import { rendezvous } from '../scheduler/index.ts'
import type { StoreImage, StoreWanted } from './api/index.ts'

const LOOK_MS = 30_000
/** A tag is asked about so often, and an image that could not be stored so often again. */
const EVERY_MS = 15 * 60_000
const RETRY_MS = 60_000
const MAX_LISTED = 1000

/**
 * Makes true what the configuration says that the site shall always be able to start: at the start, and again and again, so
 * that a tag that moved is stored anew. Of the nodes that list an image, the first in rendezvous order of its name does
 * the work; they know of each other by the records `wanted/<site>/<peer>`.
 */
export interface Wanted {
  close(): Promise<void>
}

interface Listed {
  name: string
  copies: number
}

/** @throws CONFIG for an image that has no name, or is listed twice */
export function keepWanted(deps: {
  /** Of the configuration file. */
  images: StoreWanted[]
  manager: Manager
  storeImage: StoreImage
  storedName: (reference: string) => string
  log: Log
  now?: () => number
  timing?: { lookMs: number; everyMs: number; retryMs: number }
}): Wanted {
  const { manager, storeImage, storedName, log, now = Date.now } = deps
  const { lookMs, everyMs, retryMs } = deps.timing ?? {
    lookMs: LOOK_MS,
    everyMs: EVERY_MS,
    retryMs: RETRY_MS,
  }
  const { self, members, records } = manager
  const closing = new AbortController()
  const images = deps.images.map((image) => ({ ...image, name: nameOf(image.reference), dueAt: 0 }))
  const twice = images.find(({ name }, i) => images.findIndex((other) => other.name === name) < i)
  if (twice) throw new ShoalError('CONFIG', `store: ${twice.name} is listed twice`)
  const prefix = `wanted/${encodeURIComponent(self.site)}/`

  function nameOf(reference: string): string {
    try {
      return storedName(reference)
    } catch (cause) {
      throw new ShoalError('CONFIG', `store: ${(cause as Error).message}`, { cause })
    }
  }

  /** What this node lists is told to the others; a list that is empty is taken back. */
  async function publish(): Promise<void> {
    const mine = images.map(({ name, copies }): Listed => ({ name, copies }))
    const known = await records.get(prefix + self.id)
    const value = mine.length > 0 ? mine : undefined
    if (JSON.stringify(known?.value) === JSON.stringify(value)) return
    await records.put(prefix + self.id, value, { copies: 1, signal: closing.signal })
  }

  /** For each image, the live nodes that list it, and the most copies that one wants. */
  async function everybody(): Promise<Map<string, { peers: string[]; copies: number }>> {
    const live = new Set(members.site().map(({ id }) => id))
    const all = new Map<string, { peers: string[]; copies: number }>()
    for await (const { key, value } of records.entries(prefix)) {
      const peer = key.slice(prefix.length)
      if (!live.has(peer)) continue
      for (const { name, copies } of readListed(value)) {
        const entry = all.get(name) ?? { peers: [], copies: 0 }
        entry.peers.push(peer)
        entry.copies = Math.max(entry.copies, copies)
        all.set(name, entry)
      }
    }
    return all
  }

  async function look(): Promise<void> {
    await publish()
    if (images.length === 0) return
    const listed = await everybody()
    for (const image of images) {
      const { peers = [self.id], copies = image.copies } = listed.get(image.name) ?? {}
      if (rendezvous(`wanted/${image.name}`, peers)[0] !== self.id) {
        // Should the other one go, this node looks at once.
        image.dueAt = 0
        continue
      }
      if (image.dueAt > now()) continue
      try {
        const { reference, platform } = image
        const request = { reference, copies, ...(platform === undefined ? {} : { platform }) }
        const { digest } = await storeImage(request, { signal: closing.signal, onProgress: () => {} })
        image.dueAt = now() + everyMs
        log.debug({ image: image.name, digest, copies }, 'a listed image is stored')
      } catch (error) {
        if (closing.signal.aborted) return
        image.dueAt = now() + retryMs
        log.warn({ image: image.name, error: String(error) }, 'a listed image could not be stored')
      }
    }
  }

  async function run(): Promise<void> {
    await Promise.race([members.settled.catch(() => {}), pause(lookMs)])
    while (!closing.signal.aborted) {
      await look().catch((error) => {
        if (!closing.signal.aborted)
          log.warn({ error: String(error) }, 'the listed images were not looked at')
      })
      await pause(lookMs)
      // Without a list there is nothing to come back to.
      if (images.length === 0) return
    }
  }

  /** Ends early when this closes. */
  const pause = (ms: number): Promise<void> =>
    sleep(ms, undefined, { signal: closing.signal }).catch(() => {})

  const running = run()
  return {
    async close() {
      closing.abort()
      await running
    },
  }
}

/** Another node's list; what is no list counts as none. */
function readListed(value: unknown): Listed[] {
  if (!Array.isArray(value)) return []
  return value
    .slice(0, MAX_LISTED)
    .filter(
      (entry: unknown): entry is Listed =>
        typeof entry === 'object' &&
        entry !== null &&
        typeof (entry as Listed).name === 'string' &&
        Number.isInteger((entry as Listed).copies) &&
        (entry as Listed).copies > 0,
    )
}
