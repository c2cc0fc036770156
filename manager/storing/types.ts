import type { Digest } from '../../base/index.ts'
import type { Origin } from '../types.ts'

/** A blob of a stored image. */
export interface StoredBlob {
  digest: Digest
  size: number
  mediaType?: string
}

/** An image that the site keeps in so many copies: the record `stored/<site>/<name>`. */
export interface StoredImage {
  /** `HOST/REPOSITORY:TAG` or `HOST/REPOSITORY@DIGEST`. */
  name: string
  /** Of what the name points to. */
  digest: Digest
  copies: number
  /** Manifests, configs and layers, each once. */
  blobs: StoredBlob[]
  site: string
  /** Upstream gave it to whoever asked: while it cannot be asked, any client may have it. Absent: as the offline policy says. */
  anonymous?: boolean
  /** ms since the epoch; in what Storing gives. */
  storedAt?: number
}

/** Where a stored image's bytes are. */
export interface StoredState extends StoredImage {
  size: number
  /** Bytes of it on this disk, and of these the ones that are this node's share. */
  bytesHere: number
  bytesKept: number
  /** Bytes of it on all disks of the site. */
  bytesInSite: number
  /** Copies that every block has at least, as shares of nodes that are alive. */
  copiesNow: number
  /** Every block is on a node that is alive: it can be started without the uplink. */
  startable: boolean
}

/** What a repair did: blocks copied, their bytes, and blocks of which no copy was found. */
export interface Repaired {
  copied: number
  bytes: number
  lost: number
}

/**
 * Spreads blobs over the site and keeps them there: each block on `copies` nodes, chosen by weighted rendezvous hashing with
 * balanced weights (scheduler/placement.ts), weighted by the space that each node offers. The coordinator of a blob sees to its
 * copies: it has them made again when a node left for good, and moved when one joined.
 */
export interface Storing {
  /**
   * Resolves when every block of every blob is on disk on `copies` nodes, or on all where there are fewer, and the image's record is on
   * as many. What the site lacks is pulled through this node from the blob's origin. Storing it again with other copies changes them.
   * @throws NO_QUORUM when too few nodes took their share in time | what the origin throws | STORE_FULL | NOT_FOUND where a blob
   *   is not in the site and there is no origin | USAGE
   */
  store(
    image: Omit<StoredImage, 'site'>,
    options: {
      /** Where a blob comes from if the site has it not; absent: every blob is here. */
      origin?: (blob: StoredBlob) => Origin
      signal: AbortSignal
      onProgress?: (progress: { blobs: number; blobsDone: number; bytes: number; bytesDone: number }) => void
    },
  ): Promise<void>
  /** The site need not keep it any longer: what is kept of it becomes cache. False if it was not stored. */
  forget(name: string, signal?: AbortSignal): Promise<boolean>
  /** The stored image of this name as its record has it. */
  find(name: string): Promise<StoredImage | undefined>
  /** Stored images of the repository `HOST/REPOSITORY`, as their records have them. */
  ofRepository(label: string): Promise<StoredImage[]>
  list(): Promise<StoredState[]>
  /** Makes again what is missing and moves what must move; with `now` also for nodes that are away for less than the delay. */
  repair(options: { now: boolean; signal: AbortSignal }): Promise<Repaired>
  close(): Promise<void>
}
