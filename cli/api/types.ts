import type { Digest } from '../../base/index.ts'
import type { Sources } from '../../manager/index.ts'

/** An image whose manifest this node has, or that the site stores. */
export interface ImageView extends Omit<ImageInfo, 'usedAt' | 'bytesBorrowed'> {
  /** Both absent where only the site's record of the image is known. */
  usedAt?: number
  bytesBorrowed?: number
  /** It can be started here without the uplink: all of it is here, or on nodes of the site that are alive. */
  startable: boolean
  /** Absent where the site does not store it: `copies` as wanted and as they are, and bytes in the site. */
  stored?: { copies: number; copiesNow: number; bytesInSite: number }
}

/** An image whose manifest this node has. */
export interface ImageInfo {
  /** As people write it: `docker.io/library/redis:7`. */
  reference: string
  digest: string
  /** `os/architecture` of what is here; absent for an image without platforms. */
  platforms: string[]
  /** Bytes of all its blobs, as far as known, and how many of them are here. */
  size: number
  bytesHere: number
  /** Of these the ones that are this node's share of a stored image. */
  bytesKept: number
  /** Of those that are here, the ones of blobs that lie in containerd's files. */
  bytesBorrowed: number
  complete: boolean
  /** It is not evicted. */
  pinned: boolean
  /** Manifests, configs and layers that are known. */
  blobs: number
  /** ms since the epoch of the last use. */
  usedAt: number
}

/** What a tag of the local repository was made to name, absent where it was deleted; where and when. */
export interface LocalWrite {
  digest?: string
  at: number
  node: string
}

/** A repository of `local/`. */
export interface LocalRepositoryInfo {
  name: string
  /** `beaten`: writes at the same time on other nodes, which lost; their manifests are still there by digest. */
  tags: (LocalWrite & { tag: string; digest: string; beaten: LocalWrite[] })[]
  manifests: { digest: string; mediaType: string; size: number; subject?: string }[]
}

export type PullBlobKind = 'manifest' | 'config' | 'layer' | 'blob'

/** One blob of an image that is being pulled. */
export interface PullBlob {
  digest: Digest
  kind: PullBlobKind
  size?: number
  bytesHere: number
  state: 'waiting' | 'running' | 'done' | 'failed'
  sources: Sources
}

/** All of a pull, as it stands. */
export interface PullProgress {
  /** Of the manifest or index that the reference names, once known. */
  digest?: Digest
  blobs: PullBlob[]
  /** What the whole came to, where that is more than the blobs' sum (manifests). */
  total?: { size: number; sources: Sources }
}

/** What the API needs for pulls; proxy/ gives it. Rejects with a ShoalError; ABORTED when `signal` fired. */
export type PullImage = (
  request: { reference: string; platform?: string },
  options: { signal: AbortSignal; onProgress: (progress: PullProgress) => void },
) => Promise<PullProgress>

/** What the API needs for pins; proxy/ gives it. */
export interface ImagePins {
  /** @throws NAME_INVALID | NOT_FOUND */
  pin(reference: string): Promise<ImageInfo>
  /** False if it was not pinned. */
  unpin(reference: string): Promise<boolean>
}

/** A scrub as it goes or went. */
export interface ScrubStatus {
  /** `never`: none since the daemon started. */
  state: 'never' | 'running' | 'done' | 'failed' | 'cancelled'
  startedAt?: number
  finishedAt?: number
  /** At most. */
  bytesPerSecond?: number
  /** Looked at so far. */
  blocks: number
  bytes: number
  /** Blocks that were damaged or missing. */
  bad: number
  /** Bytes that there were at the beginning. */
  total: number
  error?: Problem
}

/** How the node fared with one upstream host. */
export interface UpstreamHealth {
  host: string
  requests: number
  failures: number
  /** ms since the epoch. */
  lastOkAt?: number
  lastFailureAt?: number
  lastError?: string
}

/** One condition of being ready. */
export interface ReadyCheck {
  name: string
  ok: boolean
  reason?: string
}

/** An RFC 9457 problem; `code` is the ShoalError's. */
export interface Problem {
  type: string
  title: string
  status: number
  detail: string
  code: string
  instance?: string
}

export interface PullStatus {
  id: string
  reference: string
  platform?: string
  state: 'running' | 'done' | 'failed' | 'cancelled'
  digest?: string
  startedAt: number
  finishedAt?: number
  blobs: PullBlob[]
  /** Sums over the blobs. */
  size?: number
  bytesHere: number
  sources: Sources
  error?: Problem
}
