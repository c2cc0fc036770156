import { type Digest, isShoalError, ShoalError } from '../base/index.ts'
import { newBlob, recordOp } from './blob-table.ts'
import { throwIfAborted } from './faults.ts'
import { type Cuts, cutFile, readForeign } from './foreign.ts'
import { guardedAmong, hasOwnToMove } from './guarded.ts'
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
  put,
}: {
  state: StoreState
  removal: Removal
  room: Room
  put: BlockStore['putSegment']
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

  /** Who holds a blob counts on what is on our own disk. */
  function refuseHeld(digest: Digest): void {
    if (blobs.held(digest)) throw new ShoalError('BUSY', `${digest} is in use`)
  }

  /** Whether a `borrow` of the same file would move more. */
  async function lookAgain(digest: Digest): Promise<boolean> {
    const entry = blobs.get(digest)
    if (!entry?.mayMove) return false
    entry.mayMove = false
    if (await hasOwnToMove(state, digest)) entry.mayMove = true
    return entry.mayMove
  }

  /** The blob's record says whose file it is; what the store has of the blob otherwise than the file goes. */
  async function begin(digest: Digest, { path, size, cids }: Cuts): Promise<void> {
    refuseHeld(digest)
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

  /**
   * Gives some blocks their place in the file. Resolves to the indexes of those that must have files of their own, and have none; to
   * undefined when the file has been given back meanwhile.
   */
  async function move(
    digest: Digest,
    file: Cuts,
    from: number,
    sign: BorrowOptions['sign'],
  ): Promise<number[] | undefined> {
    refuseHeld(digest)
    const entry = blobs.get(digest)
    if (entry?.borrowedFrom !== file.path) return undefined
    const to = Math.min(from + CHUNK, file.cids.length)
    const known = new Map(
      (await segments(digest, from * BLOCK_SIZE, CHUNK)).map((segment) => [segment.offset, segment]),
    )
    const ops: Op[] = []
    const moved = new Map<Cid, { size: number; own: boolean; fresh: boolean }>()
    const added: Segment[] = []
    const lacking: number[] = []
    const cids = file.cids.slice(from, to)
    const isKept = await keptAmong(
      state,
      cids.map((_, i) => ({ digest, offset: (from + i) * BLOCK_SIZE })),
    )
    // Marks may wait for blocks that are not here: nothing refers to them then.
    const wanted = new Set(cids.filter((_, i) => isKept(digest, (from + i) * BLOCK_SIZE)))
    const guarded = new Set([...wanted, ...(await guardedAmong(state, cids))])
    for (let i = from; i < to; i++) {
      const cid = file.cids[i] as Cid
      const offset = i * BLOCK_SIZE
      const length = Math.min(BLOCK_SIZE, file.size - offset)
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      const isOwn = block !== undefined && !isBorrowed(block)
      const lies = block !== undefined && places.stamp(cid, block)?.size === length
      if (isOwn ? guarded.has(cid) && !lies : wanted.has(cid)) {
        lacking.push(i)
        continue
      }
      // One block has one place: where it lies in another borrowed file, it stays.
      const stays = lies && (isBorrowed(block) || guarded.has(cid))
      if (!stays && !moved.has(cid)) {
        ops.push(moveOp(cid, { size: length }, { digest, offset }))
        moved.set(cid, {
          size: length,
          own: isOwn,
          fresh: !isBorrowed(block),
        })
      }
      const before = known.get(offset)
      if (before !== undefined && before.cid !== cid) return undefined
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
    const facts = {
      bytesHere: entry.bytesHere + lengthOf(added),
      bytesKept: entry.bytesKept + lengthOf(added.filter(({ offset }) => isKept(digest, offset))),
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
    return lacking
  }

  /** A block that must not be left to others is copied out of the file; false when other bytes are there by now. */
  async function copy(digest: Digest, file: Cuts, i: number, options: BorrowOptions): Promise<boolean> {
    if (blobs.get(digest)?.borrowedFrom !== file.path) return false
    const offset = i * BLOCK_SIZE
    const range = { path: file.path, at: offset, size: Math.min(BLOCK_SIZE, file.size - offset) }
    const bytes = await readForeign(range, files)
    if (bytes === undefined) return false
    const expect = file.cids[i] as Cid
    const by = options.sign({ cid: expect, offset, length: range.size })
    return put(digest, { offset, expect, ...by }, bytes, options.signal).then(
      () => true,
      (error: unknown) => {
        if (isShoalError(error, 'BLOCK_MISMATCH')) return false
        throw error
      },
    )
  }

  /** False when it was given back meanwhile. */
  async function end(digest: Digest, { path, size }: Cuts): Promise<boolean> {
    const entry = blobs.get(digest)
    if (entry?.borrowedFrom !== path) return false
    // A block was found bad, or evicted.
    if (entry.bytesHere !== size) throw new ShoalError('BUSY', `a part of ${digest} went meanwhile`)
    if (!entry.complete) await index.write([recordOp(entry, { complete: true })])
    entry.complete = true
    return true
  }

  /** The blob's blocks move to the file, all that may. */
  async function moveAll(digest: Digest, file: Cuts, options: BorrowOptions): Promise<boolean> {
    await change(() => begin(digest, file))
    const lacking: number[] = []
    for (let from = 0; from < file.cids.length; from += CHUNK) {
      throwIfAborted(options.signal)
      const found = await change(() => move(digest, file, from, options.sign))
      if (found === undefined) return false
      lacking.push(...found)
    }
    for (const i of lacking) if (!(await copy(digest, file, i, options))) return false
    return change(() => end(digest, file))
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
    async borrow(digest, path, options) {
      const { bytesPerSecond, signal } = options
      throwIfAborted(signal)
      const entry = blobs.get(digest)
      if (entry?.pinned) return entry.complete
      if (entry?.complete && entry.borrowedFrom === path) {
        if (!entry.mayMove) return true
        refuseHeld(digest)
        if (!(await lookAgain(digest))) return true
      }
      refuseHeld(digest)
      const known = await vouched(digest)
      const file = await cutFile(path, { digest, files, known, bytesPerSecond, signal })
      if (file && (await moveAll(digest, file, options))) {
        await lookAgain(digest)
        return true
      }
      if (blobs.get(digest)?.borrowedFrom === path) await giveBack(digest)
      return false
    },
  }
}

function lengthOf(segments: Segment[]): number {
  return segments.reduce((sum, { length }) => sum + length, 0)
}
