import { ShoalError } from '../../base/index.ts'
import type { SharedRecord, SharedRecords, Stamp } from '../../manager/records/types.ts'

/** The shared records of a pretended cluster, in memory; `node` is who writes. */
export interface FakeRecords extends SharedRecords {
  /** How many nodes confirm a write; more wanted is NO_QUORUM. */
  nodes: number
  /** Puts a record as another node's write would: where one is there, the earlier one is beaten. */
  conflict(key: string, value: unknown, node: string): void
}

/** `table` is shared by the nodes of a cluster. */
export function createFakeRecords(node = 'self', table = new Map<string, SharedRecord>()): FakeRecords {
  let count = 0
  const stampOf = (by: string): Stamp => ({ ms: Date.now(), count: count++, node: by })
  const listeners = new Set<{ prefix: string; listener: (record: SharedRecord) => void }>()
  const tell = (record: SharedRecord): void => {
    for (const { prefix, listener } of listeners) if (record.key.startsWith(prefix)) listener(record)
  }
  const fake: FakeRecords = {
    nodes: 1,
    async put(key, value, { copies }) {
      const stamp = stampOf(node)
      const record = {
        key,
        value: value === undefined ? undefined : structuredClone(value),
        stamp,
        beaten: [],
      }
      table.set(key, record)
      tell(record)
      if (copies > fake.nodes) throw new ShoalError('NO_QUORUM', `${fake.nodes} of ${copies} confirmed`)
      return stamp
    },
    get: async (key) => table.get(key),
    async *entries(prefix) {
      const keys = [...table.keys()].filter((key) => key.startsWith(prefix)).sort()
      for (const key of keys) {
        const record = table.get(key)
        if (record?.value !== undefined) yield record
      }
    },
    onChange(prefix, listener) {
      const entry = { prefix, listener }
      listeners.add(entry)
      return () => listeners.delete(entry)
    },
    async close() {},
    conflict(key, value, by) {
      const old = table.get(key)
      const beaten = old ? [{ value: old.value, stamp: old.stamp }, ...old.beaten] : []
      table.set(key, { key, value, stamp: stampOf(by), beaten })
    },
  }
  return fake
}
