import type { Digest, Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'

const RECORDS = 'states'
/** A hold outlives a restart for so long: until then whoever asked for the state has taken it up again, or will not. */
const KEPT_MS = 24 * 3600_000

interface Held {
  blobs: Digest[]
  /** ms since the epoch. */
  at: number
}

/** Blobs of captured states that are not evicted until they are released. Remembered over a restart. */
export interface Holds {
  /** Resolves when those of the last run are held again. */
  ready: Promise<void>
  hold(recipe: Digest, blobs: Digest[]): Promise<void>
  release(recipe: Digest): Promise<void>
  close(): void
}

/** Whether states were held in an earlier run, which `createStates` takes up. */
export async function wereStatesHeld(store: BlockStore): Promise<boolean> {
  for await (const _ of store.records<Held>(RECORDS).entries()) return true
  return false
}

export function createHolds({ store, log }: { store: BlockStore; log: Log }): Holds {
  const records = store.records<Held>(RECORDS)
  const held = new Map<Digest, (() => void)[]>()

  function take(recipe: Digest, blobs: Digest[]): void {
    const before = held.get(recipe)
    held.set(
      recipe,
      blobs.map((digest) => store.hold(digest)),
    )
    for (const release of before ?? []) release()
  }

  function letGo(recipe: Digest): void {
    for (const release of held.get(recipe) ?? []) release()
    held.delete(recipe)
  }

  async function restore(): Promise<void> {
    for await (const [recipe, { blobs, at }] of records.entries()) {
      if (Date.now() - at < KEPT_MS) take(recipe as Digest, blobs)
      else await records.delete(recipe)
    }
  }

  const ready = restore().catch((error) =>
    log.warn({ error: String(error) }, 'states that were held before are not held any more'),
  )

  return {
    ready,
    async hold(recipe, blobs) {
      const isNew = !held.has(recipe)
      take(recipe, blobs)
      try {
        await records.put(recipe, { blobs, at: Date.now() })
      } catch (error) {
        if (isNew) letGo(recipe)
        throw error
      }
    },
    async release(recipe) {
      await ready
      await records.delete(recipe)
      letGo(recipe)
    },
    close() {
      for (const recipe of [...held.keys()]) letGo(recipe)
    },
  }
}
