import type { Digest, Log } from '../base/index.ts'
import type { BlobTable } from './blob-table.ts'
import type { BlockFiles } from './files.ts'
import type { KeyIndex } from './key-index.ts'
import type { Mutex } from './locks.ts'
import type { VerifiedMemo } from './memo.ts'
import type { Spare } from './spare.ts'
import type { Blob } from './types.ts'

/** What the parts of an open store share. */
export interface StoreState {
  dir: string
  files: BlockFiles
  index: KeyIndex
  blobs: BlobTable
  memo: VerifiedMemo
  spare: Spare
  log: Log
  now: () => number
  /**
   * Everything that changes which blocks the index names runs in here: it reads, decides, moves files and writes one
   * batch, with nobody in between. Hashing and writing a block's bytes, the long part of a put, happen before it.
   */
  mutate: Mutex
  /** Of the blocks that the index names. */
  totals: { bytes: number; blocks: number }
  /** Tells the listeners of onDropped. */
  dropped(digest: Digest, offsets: number[]): void
  /** Tells the listeners of onDamaged. */
  damaged(blob: Blob, offsets: number[]): void
  /** Set when disk and index are known to differ, so that the next start looks through both. */
  untidy: boolean
}
