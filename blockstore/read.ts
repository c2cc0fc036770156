import { type Digest, errnoOf, ShoalError } from '../base/index.ts'
import { cidOf, isCid } from './cid.ts'
import { asStoreError, isNoSpace, throwIfAborted } from './faults.ts'
import type { OpenFile, Stamp } from './files.ts'
import { blockKey, decodeBlock, isBorrowed } from './keys.ts'
import type { Removal } from './removal.ts'
import type { StoreState } from './state.ts'
import type { BlockStore, Cid } from './types.ts'

/** A file that changes under the reader's hands is looked at again this often before it counts as bad. */
const ATTEMPTS = 3

type Read = BlockStore['read']
type Outcome =
  | { bytes: Buffer }
  | {
      bad: 'BLOCK_MISSING' | 'BLOCK_CORRUPT'
      why: string
      seen: Stamp | undefined
      indexed: boolean
      /** The blob whose borrowed file is gone. */
      gone?: Digest
    }

export function createRead({
  state,
  removal,
  borrowing,
}: {
  state: StoreState
  removal: Removal
  borrowing: Pick<BlockStore, 'giveBack'>
}): Read {
  const { files, places, index, blobs, memo, dir, log } = state

  async function attempt(cid: Cid, into: Buffer | undefined): Promise<Outcome> {
    let file: OpenFile | undefined
    try {
      file = files.open(cid)
    } catch (error) {
      if (errnoOf(error) !== 'EIO') throw error
      return { bad: 'BLOCK_CORRUPT', why: 'the disk cannot read it', seen: files.stamp(cid), indexed: true }
    }
    if (file === undefined) {
      const value = await index.get(blockKey(cid))
      const block = value === undefined ? undefined : decodeBlock(value)
      if (isBorrowed(block)) file = places.open(block)
      const gone = isBorrowed(block) ? { gone: block.owner } : {}
      if (file === undefined) {
        return {
          bad: 'BLOCK_MISSING',
          why: 'no file',
          seen: undefined,
          indexed: block !== undefined,
          ...gone,
        }
      }
    }
    try {
      return await readOpen(cid, file, into)
    } finally {
      files.close(file)
    }
  }

  async function readOpen(cid: Cid, file: OpenFile, into: Buffer | undefined): Promise<Outcome> {
    const seen = file.stamp
    const verifiedOwner = memo.ownerIfVerified(cid, seen)
    let owner = verifiedOwner
    if (owner === undefined) {
      const value = await index.get(blockKey(cid))
      if (value === undefined) return { bad: 'BLOCK_MISSING', why: 'not indexed', seen, indexed: false }
      const block = decodeBlock(value)
      owner = block.owner
      if (block.size !== seen.size) {
        const why = `${seen.size} bytes instead of ${block.size}`
        return { bad: 'BLOCK_CORRUPT', why, seen, indexed: true }
      }
    }
    const target =
      into && into.length >= seen.size ? into.subarray(0, seen.size) : Buffer.allocUnsafe(seen.size)
    let count: number
    try {
      count = await files.read(file, target, verifiedOwner !== undefined && memo.isFresh(cid))
    } catch (error) {
      if (errnoOf(error) !== 'EIO') throw error
      return { bad: 'BLOCK_CORRUPT', why: 'the disk cannot read it', seen, indexed: true }
    }
    if (count < seen.size)
      return { bad: 'BLOCK_CORRUPT', why: 'cut short while it was read', seen, indexed: true }
    // Looked at again, lest the file changed between the first look and the read.
    if (verifiedOwner === undefined || files.look(file).print !== seen.print) {
      if (cidOf(target) !== cid) {
        return { bad: 'BLOCK_CORRUPT', why: 'other bytes than its CID names', seen, indexed: true }
      }
      memo.verified(cid, seen, owner)
    }
    blobs.touch(owner)
    return { bytes: target }
  }

  /** Only if its file still is what was read: it may have been put anew, or removed, in the meantime. */
  async function drop(cid: Cid, seen: Stamp | undefined): Promise<boolean> {
    try {
      return await removal.badBlock(cid, seen)
    } catch (error) {
      // The reader's answer is the same; the next read tries again to have it written down.
      if (!isNoSpace(error)) throw error
      log.warn({ cid, err: error }, 'a bad block could not be taken out of the index: the disk is full')
      return true
    }
  }

  return async (cid, { into, signal } = {}) => {
    throwIfAborted(signal)
    if (!isCid(cid)) throw new ShoalError('BLOCK_MISSING', `not a block’s CID: ${String(cid).slice(0, 80)}`)
    try {
      for (let n = 1; ; n++) {
        const outcome = await attempt(cid, into)
        throwIfAborted(signal)
        if ('bytes' in outcome) return outcome.bytes
        const { bad, why, seen, indexed, gone } = outcome
        // Nothing is damaged then; and the block may lie in another borrowed file too.
        if (gone) await borrowing.giveBack(gone)
        if (indexed && !(await drop(cid, seen)) && n < ATTEMPTS) continue
        if (indexed && !gone) log.warn({ cid, why }, 'dropped a bad block')
        const what = bad === 'BLOCK_MISSING' ? 'is not here' : 'is damaged'
        throw new ShoalError(bad, `block ${cid} ${what}: ${why}`, { details: { cid } })
      }
    } catch (error) {
      throw asStoreError(error, dir)
    }
  }
}
