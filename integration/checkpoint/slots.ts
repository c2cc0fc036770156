import type { PeerId, SharedRecords, Storing } from '../../manager/index.ts'
import { keyOf } from './document.ts'

/** The repository, so to speak, of all blobs of checkpoints that a site stores. */
export const STORED_LABEL = 'checkpoints'
/** Far longer than another node takes to remove a checkpoint: it must not hit what comes next under the same key. */
const REST_MS = 60_000

/** Where a version's record is, and under which name its blobs are stored. */
export interface Slot {
  slot: number
  storedAs: string
  /** It is published, or given up: whether the slot is free is told by its record now. */
  release(): void
}

/**
 * Places for the versions that this node has of a name. They are used again and again: every deleted record is remembered for 30 days, and who keeps a
 * checkpoint fresh would fill the table with them.
 */
export interface Slots {
  /** The first one that is free, reserved. */
  take(name: string): Promise<Slot>
}

export function createSlots(deps: {
  records: Pick<SharedRecords, 'get'>
  storing: Pick<Storing, 'ofRepository'>
  self: PeerId
  now: () => number
}): Slots {
  const { records, storing, self, now } = deps
  const taken = new Set<string>()

  /** What another node removed may be removed by it for a second time, as may what this node removed a moment ago. */
  async function isFree(key: string): Promise<boolean> {
    const record = await records.get(key)
    if (!record) return true
    return record.value === undefined && record.stamp.node === self && now() - record.stamp.ms >= REST_MS
  }

  return {
    async take(name) {
      const stored = new Set((await storing.ofRepository(STORED_LABEL)).map((image) => image.name))
      for (let slot = 1; ; slot++) {
        const key = keyOf({ name, node: self, slot })
        const storedAs = `${STORED_LABEL}:${name}/${self}/${slot}`
        if (taken.has(key) || stored.has(storedAs)) continue
        taken.add(key)
        let free = false
        try {
          free = await isFree(key)
        } finally {
          if (!free) taken.delete(key)
        }
        if (free) return { slot, storedAs, release: () => void taken.delete(key) }
      }
    },
  }
}
