import type { Digest } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'

/** A client that has sent a blob sends the manifest that names it within this time. */
const HOLD_MS = 3_600_000

/** Keeps blobs from being evicted between their upload and the manifest that names them. */
export interface Holding {
  add(digest: Digest): void
  close(): void
}

export function createHolding(parts: { store: Pick<BlockStore, 'hold'> }): Holding {
  const held = new Map<Digest, { release: () => void; timer: NodeJS.Timeout }>()

  function drop(digest: Digest): void {
    const entry = held.get(digest)
    if (!entry) return
    clearTimeout(entry.timer)
    entry.release()
    held.delete(digest)
  }

  return {
    add(digest) {
      drop(digest)
      const timer = setTimeout(() => drop(digest), HOLD_MS).unref()
      held.set(digest, { release: parts.store.hold(digest), timer })
    },
    close() {
      for (const digest of [...held.keys()]) drop(digest)
    },
  }
}
