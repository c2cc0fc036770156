import { type Digest, ShoalError } from '../base/index.ts'
import { type BlobEntry, type BlobTable, newBlob, recordOp } from './blob-table.ts'
import { noSpace } from './faults.ts'
import type { KeyIndex, Op } from './key-index.ts'
import {
  afterAll,
  blobKey,
  blockKey,
  decodeBlock,
  decodeSegment,
  isBorrowed,
  KEPT,
  keptKey,
  keptOf,
  parsePlace,
  segmentsOf,
} from './keys.ts'
import { pages } from './pages.ts'
import type { Place } from './places.ts'
import type { Redeem } from './redeem.ts'
import type { Removal } from './removal.ts'
import type { Room } from './room.ts'
import type { StoreState } from './state.ts'
import type { BlockStore } from './types.ts'

/** Blocks of a share that come to lie in a borrowed file while it is copied are copied too; so often. */
const TRIES = 3

export type Kept = Pick<BlockStore, 'kept' | 'keptBlobs' | 'trim'> & {
  keep(digest: Digest, offsets: readonly number[], signal: AbortSignal): Promise<void>
}

/** Marks on places of blobs: what lies there is a share of the site's, not cache. */
export function createKept({
  state,
  removal,
  room,
  redeem,
}: {
  state: StoreState
  removal: Removal
  room: Room
  redeem: Redeem
}): Kept {
  const { index, blobs, mutate, now, totals, dir } = state

  async function kept(digest: Digest): Promise<number[]> {
    const prefix = keptOf(digest)
    const keys = await index.keys({ from: prefix, to: afterAll(prefix) })
    return keys.map((key) => Number(key.slice(prefix.length)))
  }

  async function bytesAt(digest: Digest, offsets: ReadonlySet<number>): Promise<number> {
    let bytes = 0
    const prefix = segmentsOf(digest)
    for await (const [key, value] of pages(index, prefix)) {
      const offset = Number(key.slice(prefix.length))
      if (offsets.has(offset)) bytes += decodeSegment(offset, value).length
    }
    return bytes
  }

  async function anyBorrowed(digest: Digest, offsets: ReadonlySet<number>): Promise<boolean> {
    if (totals.borrowed === 0) return false
    const prefix = segmentsOf(digest)
    for await (const [key, text] of pages(index, prefix)) {
      if (!offsets.has(Number(key.slice(prefix.length)))) continue
      const value = await index.get(blockKey(decodeSegment(0, text).cid))
      if (value !== undefined && isBorrowed(decodeBlock(value))) return true
    }
    return false
  }

  async function hasSegments(digest: Digest): Promise<boolean> {
    const prefix = segmentsOf(digest)
    return (await index.keys({ from: prefix, to: afterAll(prefix), limit: 1 })).length > 0
  }

  /** One batch: the marks that come, those that go, and the record that counts them. False where a part lies in a borrowed file. */
  async function replace(digest: Digest, wanted: ReadonlySet<number>): Promise<boolean> {
    const before = new Set(await kept(digest))
    const known = blobs.get(digest)
    if (wanted.size === 0 && before.size === 0) return true
    if (await anyBorrowed(digest, new Set([...wanted].filter((offset) => !before.has(offset))))) return false
    const entry = known ?? newBlob(digest, now())
    const ops: Op[] = []
    for (const offset of wanted) {
      if (!before.has(offset)) ops.push({ type: 'put', key: keptKey(digest, offset), value: '' })
    }
    for (const offset of before) {
      if (!wanted.has(offset)) ops.push({ type: 'del', key: keptKey(digest, offset) })
    }
    if (ops.length === 0) return true
    const changes: Partial<BlobEntry> = { marks: wanted.size, bytesKept: await bytesAt(digest, wanted) }
    if ([...before].some((offset) => !wanted.has(offset))) changes.mayMove = true
    // A record that only carried the marks goes with them.
    const goes = wanted.size === 0 && !entry.pinned && !blobs.held(digest) && !(await hasSegments(digest))
    ops.push(goes ? { type: 'del', key: blobKey(digest) } : recordOp(entry, changes))
    await index.write(ops)
    Object.assign(entry, changes)
    if (goes) blobs.delete(digest)
    else blobs.add(entry)
    return true
  }

  return {
    async keep(digest, offsets, signal) {
      const wrong = offsets.find((offset) => !Number.isSafeInteger(offset) || offset < 0)
      if (wrong !== undefined) throw new ShoalError('RANGE_INVALID', `not an offset of a segment: ${wrong}`)
      const wanted = new Set(offsets)
      // Held, it does not move to a borrowed file again before the marks are there.
      const release = wanted.size > 0 ? blobs.hold(digest) : () => {}
      try {
        for (let n = 0; n < TRIES; n++) {
          await redeem(digest, { offsets: wanted, signal })
          if (await room.withDisk(0, () => mutate.run(() => replace(digest, wanted)))) return
        }
        throw noSpace(`what is to be kept of ${digest} could not be copied into ${dir}`)
      } finally {
        release()
      }
    },
    kept,
    async *keptBlobs() {
      for (const entry of blobs.all()) if (entry.marks > 0) yield entry.digest
    },
    trim: (digest, signal) =>
      removal.unkept(digest, () => blobs.get(digest)?.pinned === true || blobs.held(digest), signal),
  }
}

/** Tells which of the places are marked as kept. */
export async function keptAmong(
  { index, blobs }: { index: KeyIndex; blobs: BlobTable },
  candidates: readonly Place[],
): Promise<(digest: Digest, offset: number) => boolean> {
  const keys = candidates
    .filter(({ digest }) => (blobs.get(digest)?.marks ?? 0) > 0)
    .map(({ digest, offset }) => keptKey(digest, offset))
  if (keys.length === 0) return () => false
  const here = await index.hasMany(keys)
  const kept = new Set(keys.filter((_, i) => here[i]))
  return (digest, offset) => kept.has(keptKey(digest, offset))
}

/**
 * After a crash or a repair: counts the marks anew, and makes a record for a blob of which a repaired index has only the
 * marks. What is here of it is counted with the segments.
 */
export async function recountMarks({
  index,
  blobs,
  now,
}: {
  index: KeyIndex
  blobs: BlobTable
  now: () => number
}): Promise<void> {
  const counted = new Map<Digest, number>()
  for await (const [key] of pages(index, KEPT)) {
    const { digest } = parsePlace(key.slice(KEPT.length))
    counted.set(digest, (counted.get(digest) ?? 0) + 1)
  }
  const ops: Op[] = []
  for (const digest of new Set([...counted.keys(), ...blobs.all().map((entry) => entry.digest)])) {
    const entry = blobs.get(digest) ?? newBlob(digest, now())
    const marks = counted.get(digest) ?? 0
    entry.bytesKept = 0
    if (entry.marks === marks) continue
    entry.marks = marks
    blobs.add(entry)
    ops.push(recordOp(entry))
  }
  await index.write(ops)
}
