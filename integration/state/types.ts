import type { Digest } from '../../base/index.ts'
import type { Origin, StoredBlob } from '../../manager/index.ts'

/** A file of the state, and where it lies on this disk. CRIU's images, the writable layer's tar, the configuration. */
export interface StateFile {
  /** Relative, `/` between parts, no `..`. */
  path: string
  from: string
}

/** A captured state: one recipe blob that says how each file is made of ranges of pack blobs. All are ordinary blobs of the swarm. */
export interface Captured {
  /** The recipe's digest names the state. */
  recipe: Digest
  /** The recipe and every pack it needs, old ones too. */
  blobs: StoredBlob[]
  /** Bytes of all files. */
  size: number
  /** Bytes (4 KiB pages) that no known state had, before compression. */
  changed: number
  /** Bytes of the blobs that this capture made: new packs and the recipe. */
  added: number
}

/**
 * The key that a capture is encrypted with: every frame of its packs, and the recipe, after compression (`form/seal.ts`). Nothing of
 * them is known to who has it not. Plain data, as it has to reach another thread.
 */
export interface Seal {
  /** Of the key. A sealed state shares packs only with states of the same one, and an unsealed one with unsealed ones. */
  id: string
  /** 32 bytes. */
  key: Uint8Array
}

export interface States {
  /**
   * Reads the files once, gathers what `base` (and what this node knows otherwise) has not into new packs, compresses them where
   * that helps, and takes packs and recipe into the store (manager.ingest), where they are held until `release`.
   * @throws STORE_FULL | ABORTED
   */
  capture(request: { files: StateFile[]; base?: Digest; seal?: Seal; signal: AbortSignal }): Promise<Captured>
  /**
   * Writes the files of a recipe below `dir`, which is this state's alone: what else is in it goes. With `previous`, `dir` holds that
   * state (from an earlier call that came to its end), and only what differs is fetched and written. After an error, call it without. A call with `previous`
   * may leave a file beside `dir`, its name and `.shoal-new`, for the next one to write over; one without removes it.
   * Blobs come by tasks: from here, from the site, or from `origin`. Everything is verified before it is written.
   * @throws DIGEST_MISMATCH | PROTOCOL (a recipe that names `..`, absolute or absurd paths or sizes) | DENIED (sealed) | what the origin throws
   */
  assemble(request: {
    recipe: Digest
    dir: string
    previous?: Digest
    seal?: Seal
    origin: (blob: StoredBlob) => Origin
    signal: AbortSignal
  }): Promise<{ bytesWritten: number; bytesFetched: number }>
  /** The blobs of a recipe, itself included, after reading it (by a task where it is not here). */
  blobs(
    recipe: Digest,
    origin: (blob: StoredBlob) => Origin,
    signal: AbortSignal,
    seal?: Seal,
  ): Promise<StoredBlob[]>
  /** Reads a range of one file of a recipe; for tars that are made on the fly. A chunk is valid until the next one is asked for. */
  read(request: {
    recipe: Digest
    path: string
    start: number
    end: number
    seal?: Seal
    origin: (blob: StoredBlob) => Origin
    signal: AbortSignal
  }): AsyncIterable<Uint8Array>
  /** Lets go of what `capture` holds for this recipe. Blobs that nothing else needs are evictable then. */
  release(recipe: Digest): Promise<void>
  close(): Promise<void>
}
