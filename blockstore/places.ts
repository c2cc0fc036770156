import type { Digest } from '../base/index.ts'
import type { BlobTable } from './blob-table.ts'
import type { BlockFiles, FileRange, OpenFile, Stamp } from './files.ts'
import { openForeign, stampForeign } from './foreign.ts'
import type { KeyIndex, Op } from './key-index.ts'
import {
  afterAll,
  type BlockValue,
  type BorrowedBlock,
  blockKey,
  encodeBlock,
  isBorrowed,
  parsePlace,
  refsOf,
} from './keys.ts'
import type { Cid } from './types.ts'

/** Where blocks lie: in files of their own, or in ranges of files that the store does not own. */
export interface Places {
  /** Where the block lies in its file. */
  rangeOf(cid: Cid, block: BlockValue): FileRange | undefined
  /** Undefined when the file is not there. The caller closes it with `BlockFiles.close`. */
  open(block: BorrowedBlock): OpenFile | undefined
  /** What the block's file looks like; its size is that of the part which the block is. */
  stamp(cid: Cid, block: BlockValue | undefined): Stamp | undefined
}

export function createPlaces({ files, blobs }: { files: BlockFiles; blobs: BlobTable }): Places {
  const borrowedRange = ({ owner, at, size }: BorrowedBlock): FileRange | undefined => {
    const path = blobs.get(owner)?.borrowedFrom
    return path === undefined ? undefined : { path, at, size }
  }
  return {
    rangeOf: (cid, block) =>
      isBorrowed(block) ? borrowedRange(block) : { path: files.pathOf(cid), at: 0, size: block.size },
    open(block) {
      const range = borrowedRange(block)
      return range && openForeign(range)
    },
    stamp(cid, block) {
      if (!isBorrowed(block)) return files.stamp(cid)
      const range = borrowedRange(block)
      return range && stampForeign(range)
    },
  }
}

/** A segment's place: all that need the block, so that it may lie at any of them whose blob is borrowed. */
export interface Place {
  digest: Digest
  offset: number
}

export async function placesNeeding(index: KeyIndex, cid: Cid): Promise<Place[]> {
  const prefix = refsOf(cid)
  const keys = await index.keys({ from: prefix, to: afterAll(prefix) })
  return keys.map((key) => parsePlace(key.slice(prefix.length)))
}

/** One that lies in a borrowed file. */
export function homeAmong(blobs: BlobTable, candidates: Place[]): Place | undefined {
  return candidates.find(({ digest }) => blobs.get(digest)?.borrowedFrom !== undefined)
}

/** The write that says of a block that it lies at this place. */
export function moveOp(cid: Cid, { size }: Pick<BlockValue, 'size'>, { digest, offset }: Place): Op {
  return { type: 'put', key: blockKey(cid), value: encodeBlock({ size, owner: digest, at: offset }) }
}
