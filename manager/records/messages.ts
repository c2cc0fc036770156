/**
 * The bodies of the records' RPC and their checks: what comes from a peer is data of unknown shape until it passed here.
 *
 *   record.put      { rows: [[key, writes, seen] …] } -> { ahead: how many were refused }   answered when they are on disk
 *   record.digests  {}                                -> { digests: 256 times 8 bytes, now: ms since the epoch }
 *   record.keys     { buckets: [n …], from?: [n, key] } -> { keys: [[key, fingerprint] …], next?: [n, key] }
 *   record.get      { keys: [key …] }                 -> { rows: [[key, writes, seen] …], done: of so many keys }
 */
import { ShoalError } from '../../base/index.ts'
import { BUCKETS, DIGESTS_BYTES, type Place } from './buckets.ts'
import { MAX_COUNT } from './clock.ts'
import { MAX_BEATEN, MAX_SEEN, packRow, type Row, type Write } from './row.ts'
import type { Stamp } from './types.ts'

export const MAX_KEY = 1024
export const MAX_VALUE = 256 * 1024
/** A page is closed when it has grown to this; one row may be longer. */
export const PAGE_BYTES = 256 * 1024
export const MAX_ROWS = 1024
export const MAX_KEYS = 4096
const MAX_NODE = 128

export type KeyedRow = [key: string, row: Row]

function bad(what: string): never {
  throw new ShoalError('PROTOCOL', `malformed message: ${what}`)
}

function fields(body: unknown): Record<string, unknown> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) bad('not a map')
  return body as Record<string, unknown>
}

function list(value: unknown, what: string, max: number): unknown[] {
  return Array.isArray(value) && value.length <= max ? value : bad(what)
}

function whole(value: unknown, what: string, max: number): number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max
    ? (value as number)
    : bad(what)
}

/** True for what can be a key: not empty, at most 1 KiB, no lone surrogates, which the disk would not give back. */
export function isKey(value: unknown): value is string {
  return (
    typeof value === 'string' && value !== '' && value.isWellFormed() && Buffer.byteLength(value) <= MAX_KEY
  )
}

function readKey(value: unknown): string {
  return isKey(value) ? value : bad('key')
}

function readStamp(value: unknown[]): Stamp {
  const [ms, count, node] = value
  if (typeof node !== 'string' || node === '' || node.length > MAX_NODE || !node.isWellFormed()) bad('stamp')
  return { ms: whole(ms, 'stamp', Number.MAX_SAFE_INTEGER), count: whole(count, 'stamp', MAX_COUNT), node }
}

function readWrite(value: unknown): Write {
  const parts = list(value, 'write', 4)
  const text = parts[3] ?? undefined
  if (text !== undefined) {
    if (typeof text !== 'string' || Buffer.byteLength(text) > MAX_VALUE) bad('value')
    try {
      JSON.parse(text)
    } catch {
      bad('value')
    }
  }
  return { stamp: readStamp(parts), text: text as string | undefined }
}

function readRow(value: unknown): KeyedRow {
  const [key, writes, seen] = list(value, 'row', 3)
  const row = {
    writes: list(writes, 'writes', 1 + MAX_BEATEN).map(readWrite),
    seen: list(seen, 'seen', MAX_SEEN).map((stamp) => readStamp(list(stamp, 'stamp', 3))),
  }
  return row.writes.length > 0 ? [readKey(key), row] : bad('no writes')
}

export function packRows(rows: KeyedRow[]): unknown[] {
  return rows.map(([key, row]) => [key, ...packRow(row)])
}

export function readRows(body: unknown): KeyedRow[] {
  return list(fields(body).rows, 'rows', MAX_ROWS).map(readRow)
}

export function readGot(body: unknown): { rows: KeyedRow[]; done: number } {
  return { rows: readRows(body), done: whole(fields(body).done, 'done', MAX_KEYS) }
}

/** How much of a page a row takes, nearly. */
export function weigh([key, { writes, seen }]: KeyedRow): number {
  const texts = writes.reduce((sum, { text }) => sum + (text?.length ?? 0), 0)
  return key.length + texts + 80 * (writes.length + seen.length)
}

export function readAhead(body: unknown): number {
  return whole(fields(body).ahead, 'ahead', MAX_ROWS)
}

export function readDigests(body: unknown): { digests: Uint8Array; now: number } {
  const { digests, now } = fields(body)
  if (!(digests instanceof Uint8Array) || digests.length !== DIGESTS_BYTES) bad('digests')
  return { digests, now: whole(now, 'now', Number.MAX_SAFE_INTEGER) }
}

function readPlace(value: unknown): Place | undefined {
  if (value === undefined) return undefined
  const [bucket, key] = list(value, 'place', 2)
  return [whole(bucket, 'bucket', BUCKETS - 1), readKey(key)]
}

export function readListing(body: unknown): { buckets: number[]; from: Place | undefined } {
  const f = fields(body)
  const buckets = list(f.buckets, 'buckets', BUCKETS).map((n) => whole(n, 'bucket', BUCKETS - 1))
  if (!buckets.every((n, i) => i === 0 || n > buckets[i - 1]!)) bad('buckets out of order')
  return { buckets, from: readPlace(f.from) }
}

export function readKeys(body: unknown): { keys: [string, string][]; next: Place | undefined } {
  const f = fields(body)
  const keys = list(f.keys, 'keys', MAX_KEYS).map((entry): [string, string] => {
    const [key, fingerprint] = list(entry, 'entry', 2)
    return [readKey(key), typeof fingerprint === 'string' ? fingerprint.slice(0, 16) : bad('fingerprint')]
  })
  return { keys, next: readPlace(f.next) }
}

export function readWanted(body: unknown): string[] {
  return list(fields(body).keys, 'keys', MAX_KEYS).map(readKey)
}
