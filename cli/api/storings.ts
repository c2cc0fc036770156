import type { Log } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import { createJobs, type Job, type Jobs } from './jobs.ts'

export interface StoreWanted {
  reference: string
  copies: number
  /** `OS/ARCH[/VARIANT]`, or `all`; absent: this machine's. */
  platform?: string
}

export interface StoreProgress {
  /** The name that it is stored under, and what that points to, once known. */
  name?: string
  digest?: string
  blobs: number
  blobsDone: number
  bytes: number
  bytesDone: number
}

/** Rejects with a ShoalError; ABORTED when `signal` fired. */
export type StoreImage = (
  request: StoreWanted,
  options: { signal: AbortSignal; onProgress: (progress: StoreProgress) => void },
) => Promise<StoreProgress>

export type StoringStatus = Job & StoreWanted & StoreProgress

export type Storings = Jobs<StoreWanted, StoringStatus>

/** The images that the API was asked to store. */
export function createStorings({
  storeImage,
  wanted,
  log,
}: {
  storeImage: StoreImage
  wanted: Records<StoreWanted>
  log: Log
}): Storings {
  return createJobs<StoreWanted, StoreProgress, StoringStatus>({
    what: 'storing',
    run: storeImage,
    begin: (job) => ({ ...job, blobs: 0, blobsDone: 0, bytes: 0, bytesDone: 0 }),
    apply: (status, progress) => void Object.assign(status, progress),
    wanted,
    log,
  })
}
