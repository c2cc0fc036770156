import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Digest, errnoOf } from '../base/index.ts'
import { cidOfHash } from './cid.ts'
import { createDirectReader, type DirectReader } from './direct.ts'
import { isNoSpace, throwIfAborted } from './faults.ts'
import type { Stamp } from './files.ts'
import { BLOCKS, type BlockValue, blockKey, decodeBlock, isBorrowed } from './keys.ts'
import { pages } from './pages.ts'
import type { Removal } from './removal.ts'
import type { StoreState } from './state.ts'
import type { BlockStore, Cid, Scrubbed } from './types.ts'

/** A file that changes while it is looked at is looked at again this often; then it is left to the next scrub. */
const ATTEMPTS = 3

type Finding =
  | 'good'
  | 'gone'
  | { why: string; seen: Stamp | undefined }
  /** The blob whose borrowed file is gone. */
  | { givenUp: Digest }

/**
 * Looks at all blocks in the order of their files. What this process has verified before counts for nothing here, and a
 * block that is looked at does not count as used.
 */
export function createScrub({
  state,
  removal,
  borrowing,
}: {
  state: StoreState
  removal: Removal
  borrowing: Pick<BlockStore, 'giveBack'>
}): BlockStore['scrub'] {
  const { index, places, totals, log, dir } = state

  async function missing(cid: Cid, block: BlockValue): Promise<Finding> {
    if (isBorrowed(block)) return { givenUp: block.owner }
    // A block that was evicted a moment ago is not missed.
    return (await index.has(blockKey(cid))) ? { why: 'no file', seen: undefined } : 'gone'
  }

  async function look(cid: Cid, reader: DirectReader): Promise<Finding> {
    const value = await index.get(blockKey(cid))
    if (value === undefined) return 'gone'
    const block = decodeBlock(value)
    const { size } = block
    const seen = places.stamp(cid, block)
    const range = places.rangeOf(cid, block)
    if (seen === undefined || range === undefined) return missing(cid, block)
    if (seen.size !== size) return { why: `${seen.size} bytes instead of ${size}`, seen }
    const hash = createHash('sha256')
    try {
      if (!(await reader.read(range, (bytes) => hash.update(bytes)))) return await missing(cid, block)
    } catch (error) {
      if (errnoOf(error) === 'EACCES' && isBorrowed(block)) return missing(cid, block)
      if (errnoOf(error) !== 'EIO') throw error
      return { why: 'the disk cannot read it', seen }
    }
    return cidOfHash(hash.digest()) === cid ? 'good' : { why: 'other bytes than its CID names', seen }
  }

  /** True when the block was bad, and was dropped. */
  async function check(cid: Cid, reader: DirectReader): Promise<boolean> {
    for (let n = 0; n < ATTEMPTS; n++) {
      const found = await look(cid, reader)
      if (typeof found === 'string') return false
      if ('givenUp' in found) {
        // Whose file it is may remove it: that is no damage. The block may lie in another one too.
        await borrowing.giveBack(found.givenUp)
        continue
      }
      try {
        if (!(await removal.badBlock(cid, found.seen))) continue
      } catch (error) {
        // As with a read: the next look tries again to have it written down.
        if (!isNoSpace(error)) throw error
        log.warn({ cid, err: error }, 'a bad block could not be taken out of the index: the disk is full')
      }
      log.warn({ cid, why: found.why }, 'scrub: dropped a bad block')
      return true
    }
    return false
  }

  return async ({ bytesPerSecond, signal, onProgress }) => {
    const done: Scrubbed = { blocks: 0, bytes: 0, bad: 0 }
    const total = totals.bytes + totals.borrowed
    /** When the next block may be read; time that was lost is not made up for by going faster. */
    let due = performance.now()
    const reader = createDirectReader()
    for await (const [key, value] of pages(index, BLOCKS)) {
      const [, , cid = '', ...ref] = key.split('/')
      if (ref.length > 0) continue
      throwIfAborted(signal)
      const { size } = decodeBlock(value)
      due = Math.max(due, performance.now()) + (1000 * size) / bytesPerSecond
      if (await check(cid, reader)) done.bad++
      done.blocks++
      done.bytes += size
      onProgress?.({ ...done, total })
      const early = due - performance.now()
      if (early >= 1) await sleep(early, undefined, { signal }).catch(() => throwIfAborted(signal))
    }
    log.info({ dir, ...done }, 'scrub: looked at all blocks')
    return done
  }
}
