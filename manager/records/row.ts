import { createHash } from 'node:crypto'
import { compareStamps } from './clock.ts'
import type { SharedRecord, Stamp } from './types.ts'

export const MAX_BEATEN = 8
/** Writers of one key that are told apart; of more, an old write that turns up again may look like one that was beaten. */
export const MAX_SEEN = 64

/** A value as JSON text, undefined for a deletion. */
export interface Write {
  stamp: Stamp
  text: string | undefined
}

/**
 * What is known under a key: the writes that no other one replaced, the highest stamp first, and for each writer the latest
 * write that they knew of. So a write that was replaced knowingly is told from one at the same time: dotted version
 * vectors, N. Preguiça et al., 2010. Joining rows is commutative, associative and idempotent.
 */
export interface Row {
  writes: Write[]
  /** One a node, the highest first. */
  seen: Stamp[]
}

/** The row after a write by who knew all of it. */
export function succeed(row: Row | undefined, write: Write): Row {
  return { writes: [write], seen: latest([...(row?.seen ?? []), write.stamp]) }
}

export function join(a: Row, b: Row): Row {
  const writes = [
    ...a.writes.filter((write) => stands(write, b)),
    ...b.writes.filter((write) => stands(write, a)),
  ]
  writes.sort((one, other) => compareStamps(other.stamp, one.stamp))
  return {
    writes: writes.filter((write, i) => i === 0 || !same(write, writes[i - 1]!)).slice(0, 1 + MAX_BEATEN),
    seen: latest([...a.seen, ...b.seen]),
  }
}

/** Nobody who made `row` what it is replaced the write. */
function stands(write: Write, row: Row): boolean {
  const { ms, count, node } = write.stamp
  const known = row.seen.some(
    (stamp) => stamp.node === node && (stamp.ms > ms || (stamp.ms === ms && stamp.count >= count)),
  )
  return !known || row.writes.some((other) => same(other, write))
}

function same(a: Write, b: Write): boolean {
  return compareStamps(a.stamp, b.stamp) === 0
}

function latest(stamps: Stamp[]): Stamp[] {
  const nodes = new Set<string>()
  return stamps
    .sort((a, b) => compareStamps(b, a))
    .filter(({ node }) => !nodes.has(node) && nodes.add(node))
    .slice(0, MAX_SEEN)
}

/** The same on all nodes that know the same; 8 bytes. */
export function fingerprint(key: string, row: Row): Buffer {
  return createHash('sha256')
    .update(JSON.stringify([key, packRow(row)]))
    .digest()
    .subarray(0, 8)
}

/** As a row is stored and sent: `[[ms, count, node, text | null] …], [[ms, count, node] …]`. */
export type PackedRow = [writes: [number, number, string, string | null][], seen: [number, number, string][]]

export function packRow({ writes, seen }: Row): PackedRow {
  return [
    writes.map(({ stamp: { ms, count, node }, text }) => [ms, count, node, text ?? null]),
    seen.map(({ ms, count, node }) => [ms, count, node]),
  ]
}

export function unpackRow([writes, seen]: PackedRow): Row {
  return {
    writes: writes.map(([ms, count, node, text]) => ({
      stamp: { ms, count, node },
      text: text ?? undefined,
    })),
    seen: seen.map(([ms, count, node]) => ({ ms, count, node })),
  }
}

export function recordOf(key: string, { writes: [winner, ...beaten] }: Row): SharedRecord | undefined {
  return winner && { key, ...read(winner), beaten: beaten.map(read) }
}

function read({ stamp, text }: Write): { value: unknown; stamp: Stamp } {
  return { value: text === undefined ? undefined : JSON.parse(text), stamp }
}
