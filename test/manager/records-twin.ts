import { ShoalError } from '../../base/index.ts'
import type { SharedRecord, SharedRecords } from '../../manager/types.ts'

/**
 * The shared records of a cluster that is never parted, without a network or a disk: for tests of rooms that use them.
 * `nodes` is how many there are, `alive` how many of them answer; `join` gives what one of them sees.
 */
export function createRecordsTwin(nodes = 1, now: () => number = () => Date.now()) {
  const table = new Map<string, SharedRecord>()
  const listeners = new Set<{ prefix: string; listener: (record: SharedRecord) => void }>()
  let count = 0
  const cluster = {
    nodes,
    alive: nodes,
    join: (node: string): SharedRecords => ({
      async put(key, value, { copies }) {
        const needed = Math.min(copies, cluster.nodes)
        if (cluster.alive < needed) throw new ShoalError('NO_QUORUM', `${cluster.alive} of ${needed} nodes`)
        const stamp = { ms: now(), count: count++, node }
        const text = JSON.stringify(value) as string | undefined
        const record = { key, value: text === undefined ? undefined : JSON.parse(text), stamp, beaten: [] }
        table.set(key, record)
        for (const { prefix, listener } of [...listeners]) if (key.startsWith(prefix)) listener(record)
        return stamp
      },
      get: async (key) => table.get(key),
      async *entries(prefix) {
        for (const key of [...table.keys()].sort()) {
          const record = table.get(key)
          if (key.startsWith(prefix) && record?.value !== undefined) yield record
        }
      },
      onChange(prefix, listener) {
        const entry = { prefix, listener }
        listeners.add(entry)
        return () => listeners.delete(entry)
      },
      time: now,
      close: async () => {},
    }),
  }
  return cluster
}
