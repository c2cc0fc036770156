import type { BlockStore } from '../../../blockstore/index.ts'
import type { PodOrder, PodRef } from '../executor.ts'

/** A pod as this node has written it down, before it acts. */
export interface Row {
  order: PodOrder
  /** `there`: it shall run. `gone`: what is left of it is removed, then the row. */
  wanted: 'there' | 'gone'
  ports: { port: number; host: number }[]
  /** A migration brings it here; it is not made here. */
  arriving?: string
  /** It is on its way to there, and not restarted here meanwhile. */
  moving?: string
  restarts: number
  /** Why it was stopped and is not started again. */
  stopped?: string
}

/** Rows survive the daemon: an intent is in the store's index before anything is done. */
export interface Rows {
  get(key: string): Row | undefined
  all(): IterableIterator<[string, Row]>
  put(key: string, row: Row): Promise<void>
  delete(key: string): Promise<void>
}

export const ROWS = 'offload-pods'

export function keyOf({ app, pod }: PodRef): string {
  return `${app}/${pod}`
}

export async function openRows(store: BlockStore): Promise<Rows> {
  const records = store.records<Row>(ROWS)
  const rows = new Map<string, Row>()
  for await (const [key, row] of records.entries()) rows.set(key, row)
  return {
    get: (key) => rows.get(key),
    all: () => rows.entries(),
    async put(key, row) {
      rows.set(key, row)
      await records.put(key, row)
    },
    async delete(key) {
      rows.delete(key)
      await records.delete(key)
    },
  }
}
