import type { Digest } from '../base/index.ts'
import { publicBlob, recordOp } from './blob-table.ts'
import { isNoSpace, throwIfAborted } from './faults.ts'
import type { Stamp } from './files.ts'
import type { Op } from './key-index.ts'
import {
  afterAll,
  blobKey,
  blockKey,
  decodeBlock,
  decodeSegment,
  keptKey,
  keptOf,
  parsePlace,
  refKey,
  refsOf,
  segmentKey,
  segmentsOf,
} from './keys.ts'
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
  segment(digest: Digest, offset: number): Promise<void>
  /** Drops a block found bad, unless its file no longer looks as it did when it was found so: false then. */
  badBlock(cid: Cid, seen: Stamp | undefined): Promise<boolean>
  /** Forgets a blob and what is kept of it; resolves to the bytes that the disk has got back. */
  blob(digest: Digest, signal?: AbortSignal): Promise<number>
  /**
   * The same, but what is kept stays, and with it the blob's record. Stops, with what is done done, as soon as `veto` says
   * so.
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
  const { files, index, blobs, memo, mutate, totals, log } = state

  async function unlink(cids: Cid[]): Promise<void> {
    const results = await Promise.allSettled(cids.map((cid) => files.remove(cid)))
    for (const [i, result] of results.entries()) {
      if (result.status === 'fulfilled') continue
      state.untidy = true
      log.warn({ cid: cids[i], err: result.reason }, 'a block’s file could not be removed')
    }
  }

  /** Tells which of the segments are marked as kept. */
  async function keptAmong(segments: Leaving[]): Promise<(digest: Digest, offset: number) => boolean> {
    const keys = segments
      .filter(({ digest }) => (blobs.get(digest)?.marks ?? 0) > 0)
      .map(({ digest, offset }) => keptKey(digest, offset))
    if (keys.length === 0) return () => false
    const here = await index.hasMany(keys)
    const kept = new Set(keys.filter((_, i) => here[i]))
    return (digest, offset) => kept.has(keptKey(digest, offset))
  }

  async function plan(leaving: Leaving[]): Promise<RemovalPlan> {
    const ops: Op[] = []
    const doomed: { cid: Cid; size: number }[] = []
    const lost = new Map<Digest, { bytes: number; kept: number; offsets: number[] }>()
    const isKept = await keptAmong(leaving)
    const byBlock = [...Map.groupBy(leaving, (segment) => segment.cid)]
    const refsLeft = await Promise.all(
      byBlock.map(([cid, { length }]) =>
        index.keys({ from: refsOf(cid), to: afterAll(refsOf(cid)), limit: length + 1 }),
      ),
    )
    for (const [i, [cid, segments]] of byBlock.entries()) {
      const going = new Set<string>()
      for (const { digest, offset, length } of segments) {
        const ref = refKey(cid, digest, offset)
        going.add(ref)
        ops.push({ type: 'del', key: segmentKey(digest, offset) }, { type: 'del', key: ref })
        const of = lost.get(digest) ?? { bytes: 0, kept: 0, offsets: [] }
        of.bytes += length
        if (isKept(digest, offset)) of.kept += length
        of.offsets.push(offset)
        lost.set(digest, of)
      }
      if (!refsLeft[i]?.every((ref) => going.has(ref))) continue
      const value = await index.get(blockKey(cid))
      if (value !== undefined) doomed.push({ cid, size: decodeBlock(value).size })
      ops.push({ type: 'del', key: blockKey(cid) })
    }
    for (const digest of lost.keys()) {
      const entry = blobs.get(digest)
      if (entry?.complete) ops.push(recordOp(entry, { complete: false }))
    }
    return {
      ops,
      unlink: () => unlink(doomed.map(({ cid }) => cid)),
      async apply() {
        let freed = 0
        for (const { cid, size } of doomed) {
          memo.forget(cid)
          totals.bytes -= size
          totals.blocks--
          freed += size
        }
        for (const [digest, { bytes, kept }] of lost) {
          const entry = blobs.get(digest)
          if (entry === undefined) continue
          entry.bytesHere -= bytes
          entry.bytesKept -= kept
          entry.complete = false
          entry.stale = true
        }
        for (const [digest, { offsets }] of lost) state.dropped(digest, offsets)
        await unlink(doomed.map(({ cid }) => cid))
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
    /** What is kept is passed by; a blob of which nothing is kept goes from its start until nothing is left. */
    let passed: string | undefined
    const turn = async (): Promise<boolean> => {
      const entry = blobs.get(digest)
      if (entry === undefined) return true
      const spares = sparing && entry.marks > 0
      if (!spares) passed = undefined
      const found = await segmentsFrom(digest, passed)
      const last = found.length < CHUNK
      const isKept = spares ? await keptAmong(found) : () => false
      const removal = await plan(found.filter(({ offset }) => !isKept(digest, offset)))
      const goes = last && !spares
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
      if (spares && end) passed = segmentKey(digest, end.offset)
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
    segment: (digest, offset) =>
      mutate.run(async () => {
        const value = await index.get(segmentKey(digest, offset))
        if (value === undefined) return
        const { cid, length } = decodeSegment(offset, value)
        await carryOut(await plan([{ digest, offset, length, cid }]))
      }),
    badBlock: (cid, seen) =>
      mutate.run(async () => {
        const stamp = files.stamp(cid)
        if (stamp?.print !== seen?.print || stamp?.size !== seen?.size) return false
        const prefix = refsOf(cid)
        const leaving: Leaving[] = []
        for (const key of await index.keys({ from: prefix, to: afterAll(prefix) })) {
          const { digest, offset } = parsePlace(key.slice(prefix.length))
          const value = await index.get(segmentKey(digest, offset))
          const length = value === undefined ? 0 : decodeSegment(offset, value).length
          leaving.push({ digest, offset, length, cid })
        }
        if (leaving.length === 0) await files.remove(cid)
        else {
          const byBlob = [...Map.groupBy(leaving, ({ digest }) => digest)]
          const before = byBlob
            .map(([digest]) => blobs.get(digest))
            .map((entry) => entry && publicBlob(entry))
          await carryOut(await plan(leaving))
          for (const [i, [, lost]] of byBlob.entries()) {
            const blob = before[i]
            const offsets = lost.map(({ offset }) => offset)
            if (blob) state.damaged(blob, offsets)
          }
        }
        return true
      }),
    blob: (digest, signal) => remove(digest, { sparing: false, veto: () => false, signal }),
    unkept: (digest, veto, signal) => remove(digest, { sparing: true, veto, signal }),
  }
}
