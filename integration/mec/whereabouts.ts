import type { Records } from '../../blockstore/index.ts'
import type { PeerId } from '../../manager/index.ts'

export interface Whereabout {
  /** The node that the device is at. */
  entry: PeerId
  /** Where its last request came in. */
  seen: PeerId | undefined
  /** It said so itself, or it was seen there. */
  by: 'report' | 'request'
  at: number
}

/**
 * At which nodes devices are. A device says so, or is seen at a node that it did not use before: one that goes on asking the same
 * node's API after it reported another one has not come back.
 */
export interface Whereabouts {
  of(ue: string): Whereabout | undefined
  all(): [ue: string, where: Whereabout][]
  /** Resolves to true when the device is at another node than before. */
  seen(ue: string, at: PeerId): Promise<boolean>
  report(ue: string, at: PeerId): Promise<boolean>
  forget(ue: string): Promise<void>
}

export async function createWhereabouts({
  records,
  now = Date.now,
}: {
  records: Records<Whereabout>
  now?: () => number
}): Promise<Whereabouts> {
  const known = new Map<string, Whereabout>()
  for await (const [ue, where] of records.entries()) known.set(ue, where)

  async function set(ue: string, where: Whereabout): Promise<boolean> {
    const before = known.get(ue)
    known.set(ue, where)
    await records.put(ue, where)
    return before?.entry !== where.entry
  }

  return {
    of: (ue) => known.get(ue),
    all: () => [...known],
    async seen(ue, at) {
      if (known.get(ue)?.seen === at) return false
      return set(ue, { entry: at, seen: at, by: 'request', at: now() })
    },
    async forget(ue) {
      known.delete(ue)
      await records.delete(ue)
    },
    report: (ue, at) => set(ue, { entry: at, seen: known.get(ue)?.seen, by: 'report', at: now() }),
  }
}
