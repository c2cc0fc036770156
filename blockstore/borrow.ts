import type { Digest } from '../base/index.ts'
import { newBlob, recordOp } from './blob-table.ts'
import { throwIfAborted } from './faults.ts'
import { type Cuts, cutFile } from './foreign.ts'
import { keptAmong } from './kept.ts'
import type { Op } from './key-index.ts'
import {
  afterAll,
  blockKey,
  decodeBlock,
  decodeSegment,
  encodeSegment,
  isBorrowed,
  refKey,
  segmentKey,
  segmentsOf,
} from './keys.ts'
import { homeAmong, moveOp, placesNeeding } from './places.ts'
import type { Leaving, Removal } from './removal.ts'
import type { Room } from './room.ts'
import type { StoreState } from './state.ts'
import { BLOCK_SIZE, type BlockStore, type BorrowOptions, type Cid, type Segment } from './types.ts'

/** Blocks that change their place in one turn of the mutex: puts get theirs in between. */
const CHUNK = 128

type Borrowing = Pick<BlockStore, 'borrow' | 'giveBack'>

/** Blobs whose blocks are ranges of a file that the store does not own. */
export function createBorrowing({
  state,
  removal,
  room,
}: {
  state: StoreState
  removal: Removal
  room: Room
}): Borrowing {
  const { files, places, index, blobs, memo, mutate, totals, now } = state

  const change = <T>(work: () => Promise<T>): Promise<T> => room.withDisk(0, () => mutate.run(work))

  async function segments(digest: Digest, from = 0, limit?: number): Promise<Segment[]> {
    const prefix = segmentsOf(digest)
    const range = { from: segmentKey(digest, from), to: afterAll(prefix) }
    const entries = await index.entries(limit === undefined ? range : { ...range, limit })
    return entries.map(([key, value]) => decodeSegment(Number(key.slice(prefix.length)), value))
  }

  /** The blocks that a complete blob is known to be made of, where it is cut as a file is here: they vouch for the whole. */
  async function vouched(digest: Digest): Promise<Cid[] | undefined> {
    if (!blobs.get(digest)?.complete) return undefined
    const known = await segments(digest)
    const aligned = known.every(
      ({ offset, length }, i) =>
        offset === i * BLOCK_SIZE && (length === BLOCK_SIZE || i === known.length - 1),
    )
    return aligned ? known.map(({ cid }) => cid) : undefined
  }

  /** The blob's record says whose file it is; what the store has of the blob otherwise than the file goes. */
  async function begin(digest: Digest, { path, size, cids }: Cuts): Promise<void> {
    const entry = blobs.get(digest) ?? newBlob(digest, now())
    const wrong = (await segments(digest)).filter(
      ({ offset, cid }) => offset % BLOCK_SIZE !== 0 || cids[offset / BLOCK_SIZE] !== cid,
    )
    const plan = await removal.plan(wrong.map((segment) => ({ digest, ...segment })))
    const changes = { size, complete: entry.complete && wrong.length === 0, borrowedFrom: path }
    await removal.carryOut(plan, [recordOp(entry, changes)])
    Object.assign(entry, changes)
    blobs.add(entry)
  }

  /** Gives some blocks their place in the file; false when it has been given back meanwhile. */
  async function move(
    digest: Digest,
    file: Cuts,
    from: number,
    sign: BorrowOptions['sign'],
  ): Promise<boolean> {
    const entry = blobs.get(digest)
    if (entry?.borrowedFrom !== file.path) return false
    const to = Math.min(from + CHUNK, file.cids.length)
    const known = new Map(
      (await segments(digest, from * BLOCK_SIZE, CHUNK)).map((segment) => [segment.offset, segment]),
    )
    const ops: Op[] = []
    const moved = new Map<Cid, { size: number; own: boolean; fresh: boolean }>()
    const added: Segment[] = []
    for (let i = from; i < to; i++) {
      const cid = file.cids[i] as Cid
      const offset = i * BLOCK_SIZE
      const length = Math.min(BLOCK_SIZE, file.size - offset)
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      // One block has one place: where it lies in another borrowed file, it stays.
      const lies = isBorrowed(block) && places.stamp(cid, block)?.size === length
      if (!lies && !moved.has(cid)) {
        ops.push(moveOp(cid, { size: length }, { digest, offset }))
        moved.set(cid, {
          size: length,
          own: block !== undefined && !isBorrowed(block),
          fresh: !isBorrowed(block),
        })
      }
      const before = known.get(offset)
      if (before !== undefined && before.cid !== cid) return false
      if (before?.seeder !== undefined && before.signature !== undefined) continue
      const segment: Segment = { cid, offset, length }
      ops.push(
        {
          type: 'put',
          key: segmentKey(digest, offset),
          value: encodeSegment({ ...segment, ...sign(segment) }),
        },
        { type: 'put', key: refKey(cid, digest, offset), value: '' },
      )
      if (before === undefined) added.push(segment)
    }
    const isKept = await keptAmong(
      state,
      added.map(({ offset }) => ({ digest, offset })),
    )
    const facts = {
      bytesHere: entry.bytesHere + lengthOf(added),
      bytesKept: entry.bytesKept + lengthOf(added.filter(({ offset }) => isKept(digest, offset))),
      complete: entry.complete || to === file.cids.length,
    }
    await index.write([...ops, recordOp(entry, facts)])

    // Nobody names the own files any more: killed from here on, the next start removes them.
    Object.assign(entry, facts)
    const own: Cid[] = []
    for (const [cid, { size, own: isOwn, fresh }] of moved) {
      memo.verified(cid, { size, print: file.print }, digest)
      if (fresh) totals.borrowed += size
      if (!isOwn) continue
      totals.bytes -= size
      totals.blocks--
      own.push(cid)
    }
    await removal.unlink(own)
    return true
  }

  /** What lies in the blob's file from `from` on moves to another borrowed file that has it, or leaves. Undefined at the end. */
  async function leave(digest: Digest, from: number): Promise<number | undefined> {
    const entry = blobs.get(digest)
    if (entry?.borrowedFrom === undefined) return undefined
    const page = await segments(digest, from, CHUNK)
    const leaving: Leaving[] = []
    const ops: Op[] = []
    for (const cid of new Set(page.map((segment) => segment.cid))) {
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      if (!isBorrowed(block) || block.owner !== digest) continue
      const needing = await placesNeeding(index, cid)
      const home = homeAmong(
        blobs,
        needing.filter((place) => place.digest !== digest),
      )
      if (home) ops.push(moveOp(cid, block, home))
      else leaving.push(...needing.map((place) => ({ ...place, cid, length: block.size })))
    }
    const plan = await removal.plan(leaving)
    const isLast = page.length < CHUNK
    const changes = { complete: entry.complete && leaving.length === 0, borrowedFrom: undefined }
    if (isLast) ops.push(recordOp(entry, changes))
    const meant = (place: Leaving): boolean => place.digest === digest && !entry.pinned
    const tellDamaged = removal.damageOf(leaving.filter((place) => !meant(place)))
    // Whoever asks from here on what there is of the blob waits until this is over.
    entry.leaving = true
    try {
      await removal.carryOut(plan, ops)
    } finally {
      entry.leaving = false
    }
    if (isLast) Object.assign(entry, changes)
    tellDamaged()
    return isLast ? undefined : (page.at(-1)?.offset ?? 0) + 1
  }

  async function giveBack(digest: Digest): Promise<void> {
    for (let from: number | undefined = 0; from !== undefined; ) {
      const at: number = from
      from = await change(() => leave(digest, at))
    }
    const unused = (): boolean => {
      const entry = blobs.get(digest)
      return entry?.bytesHere === 0 && entry.marks === 0 && !entry.pinned && !blobs.held(digest)
    }
    if (unused()) await removal.unkept(digest, () => !unused())
  }

  return {
    giveBack,
    async borrow(digest, path, { sign, bytesPerSecond, signal }) {
      throwIfAborted(signal)
      const entry = blobs.get(digest)
      if (entry?.pinned) return entry.complete
      if (entry?.complete && entry.borrowedFrom === path) return true
      const release = blobs.hold(digest)
      try {
        const file = await cutFile(path, {
          digest,
          files,
          known: await vouched(digest),
          bytesPerSecond,
          signal,
        })
        let stands = file !== undefined
        if (file) {
          await change(() => begin(digest, file))
          for (let from = 0; stands && (from === 0 || from < file.cids.length); from += CHUNK) {
            throwIfAborted(signal)
            stands = await change(() => move(digest, file, from, sign))
          }
        }
        if (stands) return true
      } finally {
        release()
      }
      if (blobs.get(digest)?.borrowedFrom === path) await giveBack(digest)
      return false
    },
  }
}

function lengthOf(segments: Segment[]): number {
  return segments.reduce((sum, { length }) => sum + length, 0)
}
