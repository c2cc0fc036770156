import type { Digest } from '../base/index.ts'
import { recordOp } from './blob-table.ts'
import { isNoSpace, throwIfAborted } from './faults.ts'
import type { Stamp } from './files.ts'
import type { Op } from './key-index.ts'
import {
  afterAll,
  type BlockValue,
  blobKey,
  blockKey,
  decodeBlock,
  decodeSegment,
  isBorrowed,
  refKey,
  refsOf,
  segmentKey,
  segmentsOf,
} from './keys.ts'
import { homeAmong, moveOp, placesNeeding } from './places.ts'
import type { StoreState } from './state.ts'
import type { Cid } from './types.ts'

/** Segments that go in one turn of the mutex: puts get theirs in between. */
const CHUNK = 128

/** A segment that is to go, and the length that its blob loses with it. */
export interface Leaving {
  digest: Digest
  offset: number
  length: number
  cid: Cid
}

export interface Removal {
  /**
   * What a batch must contain, and what changes after it, for the segments to go and with them the blocks that nothing else
   * needs. To be called, and its `apply` too, within one turn of `state.mutate`.
   */
  plan(leaving: Leaving[]): Promise<RemovalPlan>
  /** Writes a plan's batch, with more in it, and applies it: in one turn of `state.mutate` with `plan`. Resolves to the bytes freed. */
  carryOut(plan: RemovalPlan, more?: Op[]): Promise<number>
  /** Removes files that the index does not name any more. */
  unlink(cids: Cid[]): Promise<void>
  segment(digest: Digest, offset: number): Promise<void>
  /** Drops a block found bad, unless its file no longer looks as it did when it was found so: false then. */
  badBlock(cid: Cid, seen: Stamp | undefined): Promise<boolean>
  /** Resolves to the bytes that the disk has got back. Stops, with what is done done, as soon as `veto` says so. */
  blob(digest: Digest, veto: () => boolean, signal?: AbortSignal): Promise<number>
}

export interface RemovalPlan {
  ops: Op[]
  /** Updates memory, removes files, tells the listeners; resolves to the bytes freed. */
  apply(): Promise<number>
  /** Removes only the files: to make room for a batch that the disk had no room for. */
  unlink(): Promise<void>
}

export function createRemoval(state: StoreState): Removal {
  const { files, places, index, blobs, memo, mutate, totals, log } = state

  async function unlink(cids: Cid[]): Promise<void> {
    const results = await Promise.allSettled(cids.map((cid) => files.remove(cid)))
    for (const [i, result] of results.entries()) {
      if (result.status === 'fulfilled') continue
      state.untidy = true
      log.warn({ cid: cids[i], err: result.reason }, 'a block’s file could not be removed')
    }
  }

  async function plan(leaving: Leaving[]): Promise<RemovalPlan> {
    const ops: Op[] = []
    const doomed: { cid: Cid; block: BlockValue }[] = []
    const lost = new Map<Digest, { bytes: number; offsets: number[] }>()
    const byBlock = [...Map.groupBy(leaving, (segment) => segment.cid)]
    const refsLeft = await Promise.all(
      byBlock.map(([cid, { length }]) =>
        index.keys({ from: refsOf(cid), to: afterAll(refsOf(cid)), limit: length + 1 }),
      ),
    )
    for (const [i, [cid, segments]] of byBlock.entries()) {
      const going = new Set<string>()
      const leave = ({ digest, offset, length }: Omit<Leaving, 'cid'>): void => {
        const ref = refKey(cid, digest, offset)
        going.add(ref)
        ops.push({ type: 'del', key: segmentKey(digest, offset) }, { type: 'del', key: ref })
        const of = lost.get(digest) ?? { bytes: 0, offsets: [] }
        of.bytes += length
        of.offsets.push(offset)
        lost.set(digest, of)
      }
      for (const segment of segments) leave(segment)
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      if (!refsLeft[i]?.every((ref) => going.has(ref))) {
        if (!isBorrowed(block) || !going.has(refKey(cid, block.owner, block.at))) continue
        // The segment at whose place it lies goes: it lies at the place of another borrowed one too, or nowhere any more.
        const others = (await placesNeeding(index, cid)).filter(
          (place) => !going.has(refKey(cid, place.digest, place.offset)),
        )
        const home = homeAmong(blobs, others)
        if (home) {
          ops.push(moveOp(cid, block, home))
          continue
        }
        for (const place of others) leave({ ...place, length: block.size })
      }
      if (block) doomed.push({ cid, block })
      ops.push({ type: 'del', key: blockKey(cid) })
    }
    for (const digest of lost.keys()) {
      const entry = blobs.get(digest)
      if (entry?.complete) ops.push(recordOp(entry, { complete: false }))
    }
    const own = (): Cid[] => doomed.filter(({ block }) => !isBorrowed(block)).map(({ cid }) => cid)
    return {
      ops,
      unlink: () => unlink(own()),
      async apply() {
        let freed = 0
        for (const { cid, block } of doomed) {
          memo.forget(cid)
          if (isBorrowed(block)) {
            totals.borrowed -= block.size
            continue
          }
          totals.bytes -= block.size
          totals.blocks--
          freed += block.size
        }
        for (const [digest, { bytes }] of lost) {
          const entry = blobs.get(digest)
          if (entry === undefined) continue
          entry.bytesHere -= bytes
          entry.complete = false
          entry.stale = true
        }
        for (const [digest, { offsets }] of lost) state.dropped(digest, offsets)
        await unlink(own())
        return freed
      },
    }
  }

  async function carryOut(removal: RemovalPlan, more: Op[] = []): Promise<number> {
    const ops = [...removal.ops, ...more]
    try {
      await index.write(ops)
    } catch (error) {
      if (!isNoSpace(error)) throw error
      // Not even deletions can be written. The files' room helps; if it does not, reads find that the files are gone.
      state.untidy = true
      await removal.unlink()
      await index.write(ops)
    }
    return removal.apply()
  }

  async function segmentsFrom(digest: Digest, limit: number): Promise<Leaving[]> {
    const prefix = segmentsOf(digest)
    const entries = await index.entries({ from: prefix, to: afterAll(prefix), limit })
    return entries.map(([key, value]) => {
      const { cid, offset, length } = decodeSegment(Number(key.slice(prefix.length)), value)
      return { digest, offset, length, cid }
    })
  }

  return {
    plan,
    carryOut,
    unlink,
    segment: (digest, offset) =>
      mutate.run(async () => {
        const value = await index.get(segmentKey(digest, offset))
        if (value === undefined) return
        const { cid, length } = decodeSegment(offset, value)
        await carryOut(await plan([{ digest, offset, length, cid }]))
      }),
    badBlock: (cid, seen) =>
      mutate.run(async () => {
        const value = await index.get(blockKey(cid))
        const stamp = places.stamp(cid, value === undefined ? undefined : decodeBlock(value))
        if (stamp?.print !== seen?.print || stamp?.size !== seen?.size) return false
        const leaving: Leaving[] = []
        for (const { digest, offset } of await placesNeeding(index, cid)) {
          const value = await index.get(segmentKey(digest, offset))
          const length = value === undefined ? 0 : decodeSegment(offset, value).length
          leaving.push({ digest, offset, length, cid })
        }
        if (leaving.length > 0) await carryOut(await plan(leaving))
        else await files.remove(cid)
        return true
      }),
    async blob(digest, veto, signal) {
      let freed = 0
      const turn = async (): Promise<boolean> => {
        const entry = blobs.get(digest)
        if (entry === undefined) return true
        const leaving = await segmentsFrom(digest, CHUNK)
        const last = leaving.length < CHUNK
        const removal = await plan(leaving)
        // Nothing waits from here to the mark: who holds the blob too late to stop this turn waits until it is over.
        if (veto()) return true
        entry.leaving = true
        try {
          freed += await carryOut(removal, last ? [{ type: 'del', key: blobKey(digest) }] : [])
        } finally {
          entry.leaving = false
        }
        if (last) blobs.delete(digest)
        return last
      }
      for (;;) {
        throwIfAborted(signal)
        if (await mutate.run(turn)) return freed
      }
    },
  }
}
