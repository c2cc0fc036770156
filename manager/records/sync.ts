import { isShoalError, ShoalError } from '../../base/index.ts'
import type { PeerId, Rpc } from '../types.ts'
import { comparePlaces, type Place } from './buckets.ts'
import {
  type KeyedRow,
  MAX_KEYS,
  MAX_ROWS,
  PAGE_BYTES,
  packRows,
  readAhead,
  readDigests,
  readGot,
  readKeys,
  readListing,
  readWanted,
  weigh,
} from './messages.ts'
import { MAX_RECORDS, type Table } from './table.ts'

const TIMEOUT_MS = 10_000

export interface Sync {
  /** Makes this node's table and the peer's equal. `refused`: rows that one took for a broken clock's. */
  with(peer: PeerId, signal: AbortSignal): Promise<{ taken: number; given: number; refused: number }>
}

/**
 * Anti-entropy (A. Demers et al., "Epidemic algorithms", 1987): digests of the key space's parts, then the keys of
 * those that differ, a page at a time, then the rows that differ, a page at a time.
 */
export function createSync(deps: {
  rpc: Rpc
  table: Table
  /** This machine's own clock, and what is told of another's. */
  now: () => number
  onTime: (peer: PeerId, ms: number) => void
}): Sync {
  const { rpc, table, now, onTime } = deps
  rpc.handle('record.digests', async () => ({
    digests: (await table.buckets()).digests(),
    now: Math.max(0, Math.floor(now())),
  }))

  rpc.handle('record.keys', async (_peer, body) => {
    const { buckets, from } = readListing(body)
    const keys: [string, string][] = []
    let bytes = 0
    let last: Place | undefined
    for (const [place, fingerprint] of (await table.buckets()).walk(buckets, { from, to: undefined })) {
      if (keys.length === MAX_KEYS || bytes > PAGE_BYTES) return { keys, next: last }
      keys.push([place[1], fingerprint])
      bytes += place[1].length
      last = place
    }
    return { keys }
  })

  rpc.handle('record.get', async (_peer, body) => {
    const keys = readWanted(body)
    const rows: KeyedRow[] = []
    let bytes = 0
    let done = 0
    for (const key of keys) {
      if (bytes > PAGE_BYTES || rows.length === MAX_ROWS) break
      const row = await table.get(key)
      if (row && bytes > 0 && bytes + weigh([key, row]) > PAGE_BYTES) break
      done++
      if (!row) continue
      rows.push([key, row])
      bytes += weigh([key, row])
    }
    return { rows: packRows(rows), done }
  })

  return {
    async with(peer, signal) {
      const result = { taken: 0, given: 0, refused: 0 }
      const ask = (method: string, body: unknown): Promise<unknown> =>
        rpc.request(peer, method, body, { timeoutMs: TIMEOUT_MS, signal })
      const here = await table.buckets()
      let full: unknown

      /** A table without room, here or there, does not keep the other one from what it lacks. */
      const orFull = (work: Promise<void>): Promise<void> =>
        work.catch((error) => {
          if (!isShoalError(error, 'STORE_FULL')) throw error
          full ??= error
        })

      async function take(keys: string[]): Promise<void> {
        for (let at = 0; at < keys.length; ) {
          const { rows, done } = readGot(await ask('record.get', { keys: keys.slice(at) }))
          if (done === 0) throw new ShoalError('PROTOCOL', `${peer} gives no records`)
          at += done
          const { taken, refused } = await table.takeAll(rows)
          result.taken += taken
          result.refused += refused
        }
      }

      async function give(keys: string[]): Promise<void> {
        let rows: KeyedRow[] = []
        let bytes = 0
        const send = async (): Promise<void> => {
          const refused = readAhead(await ask('record.put', { rows: packRows(rows) }))
          result.given += rows.length - refused
          result.refused += refused
          rows = []
          bytes = 0
        }
        for (const key of keys) {
          const row = await table.get(key)
          if (!row) continue
          const weight = weigh([key, row])
          if (rows.length === MAX_ROWS || (bytes > 0 && bytes + weight > PAGE_BYTES)) await send()
          rows.push([key, row])
          bytes += weight
        }
        if (rows.length > 0) await send()
      }

      const theirs = readDigests(await ask('record.digests', {}))
      onTime(peer, theirs.now)
      const buckets = here.differing(theirs.digests)
      let listed = 0
      for (let from: Place | undefined; buckets.length > 0; ) {
        const { keys, next } = readKeys(await ask('record.keys', { buckets, ...(from ? { from } : {}) }))
        listed += 1 + keys.length
        if (listed > 2 * MAX_RECORDS || (next && from && comparePlaces(next, from) <= 0)) {
          throw new ShoalError('PROTOCOL', `${peer} lists its records without an end`)
        }
        await orFull(take(keys.filter(([key, print]) => here.fingerprint(key) !== print).map(([key]) => key)))
        const prints = new Map(keys)
        const mine = [...here.walk(buckets, { from, to: next })]
        await orFull(
          give(mine.filter(([[, key], print]) => prints.get(key) !== print).map(([[, key]]) => key)),
        )
        if (!next) break
        from = next
      }
      if (full) throw full
      return result
    },
  }
}
