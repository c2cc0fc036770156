import type { Records } from '../../blockstore/index.ts'
import { type Entry, isEnded, migrationOf } from './entry.ts'
import type { Migration } from './types.ts'

/** Ended migrations that are remembered, the newest ones. */
const REMEMBERED = 200

export type Changes = Partial<Entry> | ((entry: Entry) => Partial<Entry> | undefined)

/** All migrations that this node takes or took part in. */
export interface Journal {
  /** Reads what an earlier run of the daemon left. */
  load(): Promise<Entry[]>
  get(id: string): Entry | undefined
  list(): Entry[]
  /**
   * Changes an entry and resolves to it when that is on the disk itself: only then may what it permits be done. Changes of one entry
   * are written one after the other; `changes` is asked when the turn has come, and where it gives none nothing is written.
   */
  write(id: string, changes: Changes): Promise<Entry | undefined>
  /** False where there is one of this ID already: an ID is used once. */
  add(entry: Entry): Promise<boolean>
  /** What is only told, such as a round's figures: lost if the machine dies now. */
  note(id: string, changes: Partial<Entry>): Promise<void>
  onChange(listener: (migration: Migration) => void): () => void
}

export function createJournal({ records }: { records: Records<Entry> }): Journal {
  const entries = new Map<string, Entry>()
  const listeners = new Set<(migration: Migration) => void>()
  const turns = new Map<string, Promise<unknown>>()

  function inTurn<T>(id: string, work: () => Promise<T>): Promise<T> {
    const turn = (turns.get(id) ?? Promise.resolve()).then(work, work)
    turns.set(id, turn)
    const end = (): void => {
      if (turns.get(id) === turn) turns.delete(id)
    }
    turn.then(end, end)
    return turn
  }

  async function put(entry: Entry, sync: boolean): Promise<void> {
    await records.put(entry.id, entry, { sync })
    entries.set(entry.id, entry)
    const migration = migrationOf(entry)
    for (const listener of listeners) listener(migration)
    if (isEnded(entry)) await forgetOldest()
  }

  function change(id: string, changes: Changes, sync: boolean): Promise<Entry | undefined> {
    return inTurn(id, async () => {
      const entry = entries.get(id)
      const wanted = typeof changes === 'function' ? entry && changes(entry) : changes
      if (entry === undefined || wanted === undefined) return undefined
      const changed = { ...entry, ...wanted }
      await put(changed, sync)
      return changed
    })
  }

  async function forgetOldest(): Promise<void> {
    const ended = [...entries.values()].filter(isEnded).sort((a, b) => (a.endedAt ?? 0) - (b.endedAt ?? 0))
    for (const { id } of ended.slice(0, Math.max(0, ended.length - REMEMBERED))) {
      entries.delete(id)
      await records.delete(id)
    }
  }

  return {
    async load() {
      for await (const [id, entry] of records.entries()) entries.set(id, entry)
      return [...entries.values()]
    },
    get: (id) => entries.get(id),
    list: () => [...entries.values()].sort((a, b) => a.startedAt - b.startedAt),
    write: (id, changes) => change(id, changes, true),
    add: (entry) =>
      inTurn(entry.id, async () => {
        if (entries.has(entry.id)) return false
        await put(entry, true)
        return true
      }),
    async note(id, changes) {
      await change(id, changes, false)
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }
}
