import type { Log } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Sources } from '../../manager/index.ts'
import { createJobs, type Jobs } from './jobs.ts'
import type { PullBlob, PullImage, PullProgress, PullStatus } from './types.ts'

export interface PullWanted {
  reference: string
  platform?: string
}

export type Pulls = Jobs<PullWanted, PullStatus>

function sumSources(blobs: PullBlob[]): Sources {
  const sum = { local: 0, peers: 0, upstream: 0 }
  for (const { sources } of blobs) {
    sum.local += sources.local
    sum.peers += sources.peers
    sum.upstream += sources.upstream
  }
  return sum
}

/** The whole size once every blob's is known. */
function sumSizes(blobs: PullBlob[]): number | undefined {
  let sum = 0
  for (const { size } of blobs) {
    if (size === undefined) return undefined
    sum += size
  }
  return blobs.length > 0 ? sum : undefined
}

/** The pulls that were asked for over the API. */
export function createPulls({
  pull,
  wanted,
  log,
  now,
}: {
  pull: PullImage
  wanted: Records<PullWanted>
  log: Log
  now?: () => number
}): Pulls {
  return createJobs<PullWanted, PullProgress, PullStatus>({
    what: 'pull',
    run: pull,
    begin: (job) => ({ ...job, blobs: [], bytesHere: 0, sources: { local: 0, peers: 0, upstream: 0 } }),
    apply(status, progress) {
      const size = progress.total?.size ?? sumSizes(progress.blobs)
      if (size !== undefined) status.size = size
      if (progress.digest !== undefined) status.digest = progress.digest
      status.blobs = progress.blobs
      status.bytesHere = progress.total?.size ?? progress.blobs.reduce((sum, blob) => sum + blob.bytesHere, 0)
      status.sources = progress.total?.sources ?? sumSources(progress.blobs)
    },
    wanted,
    log,
    now,
  })
}
