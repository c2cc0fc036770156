import type { Digest } from '../base/index.ts'
import { publicBlob, recordOp } from './blob-table.ts'
import { isNoSpace, throwIfAborted } from './faults.ts'
import type { Stamp } from './files.ts'
import { keptAmong } from './kept.ts'
import type { Op } from './key-index.ts'
import {
  afterAll,
  type BlockValue,
  blobKey,
  blockKey,
  decodeBlock,
  decodeSegment,
  isBorrowed,
  keptOf,
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
  /** To be called before the segments go; tells the listeners to damage when what it returns is called. */
  damageOf(segments: Leaving[]): () => void
  /** Drops a block found bad, unless its file no longer looks as it did when it was found so: false then. */
  badBlock(cid: Cid, seen: Stamp | undefined): Promise<boolean>
  /** Forgets a blob and what is kept of it; resolves to the bytes that the disk has got back. */
  blob(digest: Digest, signal?: AbortSignal): Promise<number>
  /**
   * The same, but what is kept stays, and what lies in borrowed files, as that would free nothing; the blob's record stays with them.
   * Stops, with what is done done, as soon as `veto` says so.
   */
  unkept(digest: Digest, veto: () => boolean, signal?: AbortSignal): Promise<number>
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

  /** What stays when only what is neither kept nor borrowed shall go. */
  async function sparedOf(found: Leaving[]): Promise<Set<number>> {
    const isKept = await keptAmong(state, found)
    const values =
      totals.borrowed > 0 ? await Promise.all(found.map(({ cid }) => index.get(blockKey(cid)))) : []
    const lies = (value: string | undefined): boolean => value !== undefined && isBorrowed(decodeBlock(value))
    const spared = found.filter(({ digest, offset }, i) => isKept(digest, offset) || lies(values[i]))
    return new Set(spared.map(({ offset }) => offset))
  }

  async function plan(leaving: Leaving[]): Promise<RemovalPlan> {
    const ops: Op[] = []
    const doomed: { cid: Cid; block: BlockValue }[] = []
    const gone: Leaving[] = []
    /** Whom nobody meant to take it from. */
    const bereft: Leaving[] = []
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
        gone.push({ digest, offset, length, cid })
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
        for (const place of others) {
          leave({ ...place, length: block.size })
          bereft.push({ ...place, length: block.size, cid })
        }
      }
      if (block) doomed.push({ cid, block })
      ops.push({ type: 'del', key: blockKey(cid) })
    }
    const isKept = await keptAmong(state, gone)
    const lost = [...Map.groupBy(gone, ({ digest }) => digest)]
    for (const [digest] of lost) {
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
        const tellDamaged = damageOf(bereft)
        for (const [digest, segments] of lost) {
          const entry = blobs.get(digest)
          if (entry === undefined) continue
          const kept = segments.filter(({ offset }) => isKept(digest, offset))
          entry.bytesHere -= lengthOf(segments)
          entry.bytesKept -= lengthOf(kept)
          entry.complete = false
          entry.stale = true
        }
        for (const [digest, segments] of lost) state.dropped(digest, offsetsOf(segments))
        tellDamaged()
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

  const damageOf: Removal['damageOf'] = (segments) => {
    const before = [...Map.groupBy(segments, ({ digest }) => digest)].map(([digest, lost]) => {
      const entry = blobs.get(digest)
      return { blob: entry && publicBlob(entry), offsets: offsetsOf(lost) }
    })
    return () => {
      for (const { blob, offsets } of before) if (blob) state.damaged(blob, offsets)
    }
  }

  /** Segments of the blob after `after`, at most CHUNK. */
  async function segmentsFrom(digest: Digest, after: string | undefined): Promise<Leaving[]> {
    const prefix = segmentsOf(digest)
    const from = after ?? prefix
    const entries = await index.entries({
      from,
      after: after !== undefined,
      to: afterAll(prefix),
      limit: CHUNK,
    })
    return entries.map(([key, value]) => {
      const { cid, offset, length } = decodeSegment(Number(key.slice(prefix.length)), value)
      return { digest, offset, length, cid }
    })
  }

  async function remove(
    digest: Digest,
    { sparing, veto, signal }: { sparing: boolean; veto: () => boolean; signal: AbortSignal | undefined },
  ): Promise<number> {
    let freed = 0
    /** From the first that is spared on, what was looked at is passed by; until then the blob goes from its start. */
    let passed: string | undefined
    const turn = async (): Promise<boolean> => {
      const entry = blobs.get(digest)
      if (entry === undefined) return true
      const found = await segmentsFrom(digest, passed)
      const last = found.length < CHUNK
      const spared = sparing ? await sparedOf(found) : new Set()
      const removal = await plan(found.filter(({ offset }) => !spared.has(offset)))
      const stays = sparing && (entry.marks > 0 || entry.borrowedFrom !== undefined)
      const goes = last && !stays && passed === undefined && spared.size === 0
      const more: Op[] = goes ? [{ type: 'del', key: blobKey(digest) }] : []
      if (goes && entry.marks > 0) more.push(...(await unmarkOps(digest)))
      // Nothing waits from here to the mark: who holds the blob too late to stop this turn waits until it is over.
      if (veto()) return true
      entry.leaving = true
      try {
        freed += await carryOut(removal, more)
      } finally {
        entry.leaving = false
      }
      if (goes) blobs.delete(digest)
      const end = found.at(-1)
      if (end && (passed !== undefined || spared.size > 0)) passed = segmentKey(digest, end.offset)
      return last
    }
    for (;;) {
      throwIfAborted(signal)
      if (await mutate.run(turn)) return freed
    }
  }

  async function unmarkOps(digest: Digest): Promise<Op[]> {
    const keys = await index.keys({ from: keptOf(digest), to: afterAll(keptOf(digest)) })
    return keys.map((key) => ({ type: 'del', key }))
  }

  return {
    plan,
    carryOut,
    unlink,
    damageOf,
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
        if (leaving.length === 0) await files.remove(cid)
        else {
          const tellDamaged = damageOf(leaving)
          await carryOut(await plan(leaving))
          tellDamaged()
        }
        return true
      }),
    blob: (digest, signal) => remove(digest, { sparing: false, veto: () => false, signal }),
    unkept: (digest, veto, signal) => remove(digest, { sparing: true, veto, signal }),
  }
}

function lengthOf(segments: Leaving[]): number {
  return segments.reduce((sum, { length }) => sum + length, 0)
}

function offsetsOf(segments: Leaving[]): number[] {
  return segments.map(({ offset }) => offset)
}
