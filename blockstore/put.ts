import { type Digest, ShoalError } from '../base/index.ts'
import { newBlob, recordOp } from './blob-table.ts'
import { cidInPool, cidOf, isCid } from './cid.ts'
import { noSpace, throwIfAborted } from './faults.ts'
import type { Op } from './key-index.ts'
import {
  blockKey,
  decodeBlock,
  decodeSegment,
  encodeBlock,
  encodeSegment,
  isBorrowed,
  keptKey,
  refKey,
  segmentKey,
} from './keys.ts'
import { createSlots } from './locks.ts'
import type { Removal } from './removal.ts'
import type { Room } from './room.ts'
import type { StoreState } from './state.ts'
import type { BlockStore, Cid, Segment } from './types.ts'

/** Puts that write at once: more than the thread pool takes gains nothing. */
const AT_ONCE = 4
/** From so many puts at once on, blocks come faster than the calling thread should hash: see `cidInPool`. */
const MANY = 3

type PutSegment = BlockStore['putSegment']

export function createPut({
  state,
  removal,
  room,
}: {
  state: StoreState
  removal: Removal
  room: Room
}): PutSegment {
  const { files, places, index, blobs, memo, mutate, totals, spare, now, dir } = state
  const slots = createSlots(AT_ONCE)

  /**
   * One turn of the mutex: the file gets its name, the index its entries. Without `staged`, the block is thought to be
   * here; false if its file is not, or is another's and must not be.
   */
  async function commit(
    digest: Digest,
    segment: Segment,
    staged: string | undefined,
    unclaim: () => void,
  ): Promise<boolean> {
    const { cid, offset, length } = segment
    const value = await index.get(blockKey(cid))
    const block = value === undefined ? undefined : decodeBlock(value)
    if (staged === undefined && !(block && places.stamp(cid, block)?.size === length)) return false
    const entry = blobs.get(digest) ?? newBlob(digest, now())
    const isKept = entry.marks > 0 && (await index.has(keptKey(digest, offset)))
    if (staged === undefined && isBorrowed(block) && (isKept || entry.pinned)) return false
    // A borrowed block that is put all the same, since its file is no good or nobody knew, has a file of its own from now on.
    const known = block !== undefined && (staged === undefined || !isBorrowed(block))

    const before = await index.get(segmentKey(digest, offset))
    const old = before === undefined ? undefined : decodeSegment(offset, before)
    const replaced =
      old && old.cid !== cid
        ? await removal.plan([{ digest, offset, length: old.length, cid: old.cid }])
        : undefined
    const ops: Op[] = replaced?.ops ?? []
    if (!known)
      ops.push({
        type: 'put',
        key: blockKey(cid),
        value: encodeBlock({ size: length, owner: digest, at: undefined }),
      })
    if (!known || old?.cid !== cid) ops.push({ type: 'put', key: refKey(cid, digest, offset), value: '' })
    const merged = old?.cid === cid ? { ...old, ...segment } : segment
    ops.push({ type: 'put', key: segmentKey(digest, offset), value: encodeSegment(merged) })
    if (blobs.get(digest) === undefined) ops.push(recordOp(entry))

    // A file that was there is replaced by one known to be good.
    const stamp = staged === undefined ? undefined : await files.adopt(staged, cid)
    try {
      await index.write(ops)
    } catch (error) {
      if (!known) await files.remove(cid)
      throw error
    }

    unclaim()
    if (stamp) memo.verified(cid, stamp, digest)
    if (!known) {
      totals.bytes += length
      totals.blocks++
      if (block) totals.borrowed -= length
    }
    blobs.add(entry)
    blobs.touch(digest)
    await replaced?.apply()
    if (old?.cid !== cid) {
      entry.bytesHere += length
      if (isKept) entry.bytesKept += length
    }
    return true
  }

  async function store(
    digest: Digest,
    { offset, expect, seeder, signature, sign }: Parameters<PutSegment>[1],
    bytes: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<Cid> {
    const segmentOf = (cid: Cid): Segment => {
      const by = sign?.(cid) ?? { seeder, signature }
      return {
        cid,
        offset,
        length: bytes.length,
        ...(by.seeder === undefined ? {} : { seeder: by.seeder }),
        ...(by.signature === undefined ? {} : { signature: by.signature }),
      }
    }
    const cid = slots.taken < MANY ? cidOf(bytes) : await cidInPool(bytes)
    if (expect !== undefined) {
      if (cid !== expect) throw mismatch(expect, cid)
      const isKnown = await index.has(blockKey(cid))
      if (isKnown && (await mutate.run(() => commit(digest, segmentOf(cid), undefined, () => {})))) return cid
    }
    const unclaim = await room.claim(bytes.length, signal)
    try {
      if (!(await spare.ensure())) throw noSpace(`no room left on the disk of ${dir}`)
      const staged = await files.stage(bytes)
      try {
        throwIfAborted(signal)
        await mutate.run(() => commit(digest, segmentOf(cid), staged, unclaim))
      } catch (error) {
        await files.discard(staged)
        throw error
      }
      return cid
    } finally {
      unclaim()
    }
  }

  return async (digest, segment, bytes, signal) => {
    const { offset, expect } = segment
    if (!Number.isSafeInteger(offset) || offset < 0) {
      throw new ShoalError('RANGE_INVALID', `not an offset of a segment: ${offset}`)
    }
    if (expect !== undefined && !isCid(expect)) throw mismatch(expect, undefined)
    throwIfAborted(signal)
    // What is being put is in use: making room for it must not take its own blob.
    const release = blobs.hold(digest)
    try {
      const leave = await slots.enter(signal)
      try {
        return await room.withDisk(bytes.length, () => store(digest, segment, bytes, signal), signal)
      } finally {
        leave()
      }
    } finally {
      release()
    }
  }
}

function mismatch(expect: Cid | undefined, cid: Cid | undefined): ShoalError {
  return new ShoalError(
    'BLOCK_MISMATCH',
    `expected block ${expect}, got ${cid ?? 'nothing that has a CID'}`,
    {
      details: { expect, cid },
    },
  )
}
