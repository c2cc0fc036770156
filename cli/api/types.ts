import type { Digest } from '../../base/index.ts'
import type { Sources } from '../../manager/index.ts'

/** An image whose manifest this node has, or that the site stores. */
export interface ImageView extends Omit<ImageInfo, 'usedAt'> {
  usedAt?: number
  /** It can be started here without the uplink: all of it is here, or on nodes of the site that are alive. */
  startable: boolean
  /** Absent where the site does not store it: `copies` as wanted and as they are, and bytes in the site and of this node's share. */
  stored?: { copies: number; copiesNow: number; bytesInSite: number; bytesKept: number }
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
  complete: boolean
  /** ms since the epoch of the last use. */
  usedAt: number
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
