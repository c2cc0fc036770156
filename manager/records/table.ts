import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { type Buckets, createBuckets } from './buckets.ts'
import type { Clock } from './clock.ts'
import { fingerprint, join, type PackedRow, packRow, type Row, recordOf, succeed, unpackRow } from './row.ts'
import type { SharedRecord } from './types.ts'

/** A deletion is remembered so long: a node that was away for longer may bring back what it had. */
export const TOMBSTONE_MS = 30 * 24 * 3600_000
/** What the index of a table of this size takes in memory is some 10 MiB. */
export const MAX_RECORDS = 50_000
const MAX_BYTES = 128 * 2 ** 20
/** Deletions that give way at once when the table is full. */
const GIVE_WAY = 5000
/** All rows are read to find them: so long nothing is looked for after a search in vain. */
const SEARCH_MS = 60_000

/** The records on this disk. */
export interface Table {
  get(key: string): Promise<Row | undefined>
  /** A write of this node; undefined deletes. @throws STORE_FULL */
  write(key: string, text: string | undefined): Promise<Row>
  /** What another node knows, as much as there is room for. `refused`: it comes from a broken clock. @throws STORE_FULL when some had no room */
  takeAll(rows: readonly (readonly [key: string, row: Row])[]): Promise<{ taken: number; refused: number }>
  entries(prefix: string): AsyncIterable<SharedRecord>
  buckets(): Promise<Buckets>
  /** Forgets old deletions. */
  purge(): Promise<void>
  onChange(prefix: string, listener: (record: SharedRecord) => void): () => void
  /** Lets the write under way end; later ones fail. */
  close(): Promise<void>
}

/** Opens at once; the first use waits until the records that are stored were looked through. */
export function createTable(deps: {
  store: BlockStore
  clock: Clock
  now: () => number
  log: Log
  maxRecords?: number
}): Table {
  const { store, clock, now, log, maxRecords = MAX_RECORDS } = deps
  const rows = store.records<PackedRow>('shared')
  const index = createBuckets()
  const listeners = new Set<{ prefix: string; listener: (record: SharedRecord) => void }>()
  let closed = false
  /** Deletions up to here have given way. */
  let floor = 0
  let searchedAt = Number.NEGATIVE_INFINITY
  const ready = load()
  ready.catch((error) => log.error({ error: String(error) }, 'the shared records cannot be read'))
  let tail = ready.catch(() => {})

  async function load(): Promise<void> {
    for await (const [key, packed] of rows.entries()) {
      const row = unpackRow(packed)
      for (const { stamp } of row.writes) clock.see(stamp)
      for (const stamp of row.seen) clock.see(stamp)
      note(key, row, packed)
    }
  }

  function note(key: string, row: Row, packed: PackedRow): void {
    index.set(key, fingerprint(key, row), JSON.stringify(packed).length + key.length)
  }

  function expired({ writes: [winner] }: Row): boolean {
    if (winner === undefined || winner.text !== undefined) return false
    return winner.stamp.ms <= Math.max(floor, now() - TOMBSTONE_MS)
  }

  async function forget(key: string): Promise<void> {
    await rows.delete(key)
    index.delete(key)
  }

  /** A full table forgets its oldest deletions before their time: a node that is away may bring something back, but nobody is refused. */
  async function makeRoom(): Promise<void> {
    if (now() - searchedAt < SEARCH_MS) return
    const found: { key: string; ms: number }[] = []
    for await (const [key, packed] of rows.entries()) {
      const [winner] = unpackRow(packed).writes
      if (winner !== undefined && winner.text === undefined) found.push({ key, ms: winner.stamp.ms })
    }
    if (found.length === 0) searchedAt = now()
    found.sort((a, b) => a.ms - b.ms)
    for (const { key, ms } of found.slice(0, Math.min(GIVE_WAY, Math.ceil(maxRecords / 10)))) {
      await forget(key)
      floor = ms
    }
  }

  /** Reading, joining and writing back must not be interleaved with another write. */
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = tail.then(async () => {
      await ready
      if (closed) throw new ShoalError('ABORTED', 'closing')
      return work()
    })
    tail = turn.then(
      () => {},
      () => {},
    )
    return turn
  }

  async function find(key: string): Promise<Row | undefined> {
    const packed = await rows.get(key)
    return packed && unpackRow(packed)
  }

  async function save(key: string, row: Row): Promise<void> {
    const packed = packRow(row)
    const growth = JSON.stringify(packed).length + key.length - index.sizeOf(key)
    const isNew = index.fingerprint(key) === undefined
    const lacksRoom = (): boolean =>
      growth > 0 && ((isNew && index.count >= maxRecords) || index.bytes + growth > MAX_BYTES)
    if (lacksRoom()) await makeRoom()
    if (lacksRoom()) {
      throw new ShoalError('STORE_FULL', `no room for more records: ${index.count} are there`)
    }
    await rows.put(key, packed)
    note(key, row, packed)
    const record = recordOf(key, row)
    for (const { prefix, listener } of record ? [...listeners] : []) {
      if (!key.startsWith(prefix)) continue
      try {
        listener(record!)
      } catch (error) {
        log.error({ key, error: String(error) }, 'a listener to the shared records failed')
      }
    }
  }

  const take = (key: string, row: Row): Promise<boolean> =>
    inTurn(async () => {
      const stamps = [...row.writes.map(({ stamp }) => stamp), ...row.seen]
      if (!stamps.every(clock.credible)) return false
      const known = await find(key)
      if (!known && expired(row)) return true
      const joined = known ? join(known, row) : join(row, row)
      for (const stamp of stamps) clock.see(stamp)
      if (fingerprint(key, joined).toString('hex') !== index.fingerprint(key)) await save(key, joined)
      return true
    })

  return {
    async get(key) {
      await ready
      return find(key)
    },
    write: (key, text) =>
      inTurn(async () => {
        const row = succeed(await find(key), { stamp: clock.next(), text })
        await save(key, row)
        return row
      }),
    async takeAll(given) {
      const result = { taken: 0, refused: 0 }
      let full: unknown
      for (const [key, row] of given) {
        try {
          if (await take(key, row)) result.taken++
          else result.refused++
        } catch (error) {
          if (!isShoalError(error, 'STORE_FULL')) throw error
          // Others may replace what is here, or delete it.
          full ??= error
        }
      }
      if (full) throw full
      return result
    },
    async *entries(prefix) {
      await ready
      for await (const [key, packed] of rows.entries(prefix)) {
        const record = recordOf(key, unpackRow(packed))
        if (record && record.value !== undefined) yield record
      }
    },
    async buckets() {
      await ready
      return index
    },
    async purge() {
      await ready
      for await (const [key, packed] of rows.entries()) {
        if (!expired(unpackRow(packed))) continue
        await inTurn(async () => {
          const row = await find(key)
          if (!row || !expired(row)) return
          await forget(key)
        })
      }
    },
    onChange(prefix, listener) {
      const entry = { prefix, listener }
      listeners.add(entry)
      return () => listeners.delete(entry)
    },
    async close() {
      closed = true
      await tail
    },
  }
}
