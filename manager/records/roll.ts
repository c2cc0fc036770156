import type { Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Membership, PeerId } from '../types.ts'
import { TOMBSTONE_MS } from './table.ts'

const DAY_MS = 24 * 3600_000

/** Nodes that a message may reach now, without this one. */
export function livePeers(members: Membership): PeerId[] {
  return members
    .list()
    .filter(({ id, state }) => id !== members.self.id && (state === 'alive' || state === 'suspect'))
    .map(({ id }) => id)
}

/** Who belongs to the cluster, over restarts: a node that is only away must not look like one that never was. */
export interface Roll {
  /** Nodes that were met and did not say goodbye, this one included. One not met for 30 days does not count. */
  size(): Promise<number>
  /** Takes in who is there now. */
  update(): void
  /** Nodes that were not met for 30 days, whether they said goodbye or not; each is given once. */
  forgotten(): Promise<PeerId[]>
  close(): Promise<void>
}

export function createRoll(deps: {
  members: Membership
  store: BlockStore
  now: () => number
  log: Log
}): Roll {
  const { members, store, now, log } = deps
  const table = store.records<number>('nodes')
  const left = store.records<number>('nodes.left')
  const met = new Map<PeerId, number>()
  /** When who said goodbye did so. */
  const gone = new Map<PeerId, number>()
  const due = new Set<PeerId>()
  let tail = load().catch((error) => log.error({ error: String(error) }, 'the list of nodes cannot be read'))

  async function load(): Promise<void> {
    for await (const [peer, at] of table.entries()) met.set(peer, at)
    for await (const [peer, at] of left.entries()) gone.set(peer, at)
  }

  async function change(): Promise<void> {
    const time = now()
    for (const { id, state } of members.list()) {
      if (id === members.self.id) continue
      const at = met.get(id)
      if (state === 'left' && at !== undefined) {
        met.delete(id)
        await table.delete(id)
        gone.set(id, time)
        await left.put(id, time)
      } else if ((state === 'alive' || state === 'suspect') && (at === undefined || time - at > DAY_MS)) {
        met.set(id, time)
        await table.put(id, time)
        if (gone.delete(id)) await left.delete(id)
      }
    }
    for (const [times, records] of [[met, table] as const, [gone, left] as const]) {
      for (const [peer, at] of times) {
        if (time - at < TOMBSTONE_MS) continue
        times.delete(peer)
        due.add(peer)
        await records.delete(peer)
      }
    }
  }

  function update(): void {
    tail = tail
      .then(change)
      .catch((error) => log.warn({ error: String(error) }, 'the list of nodes cannot be written'))
  }

  return {
    async size() {
      update()
      await tail
      return 1 + met.size
    },
    update,
    async forgotten() {
      update()
      await tail
      const peers = [...due]
      due.clear()
      return peers
    },
    close: () => tail,
  }
}
