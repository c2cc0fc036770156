import { errnoOf, isShoalError, ShoalError } from '../base/index.ts'

/** The error that an aborted operation ends with. */
export function aborted(signal: AbortSignal | undefined): ShoalError {
  return new ShoalError('ABORTED', 'the operation was aborted', { cause: signal?.reason })
}

/** @throws ABORTED when the signal has fired */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw aborted(signal)
}

/**
 * True when the disk, or the quota of the user on it, has no room left. LevelDB hands on no errno, only the system's text
 * (glibc's and musl's wordings; it is not translated, as Node never sets a locale).
 */
export function isNoSpace(error: unknown): boolean {
  const errno = errnoOf(error)
  if (errno === 'ENOSPC' || errno === 'EDQUOT') return true
  for (let e = error, depth = 0; e instanceof Error && depth < 5; e = e.cause, depth++) {
    if (/no space left on device|(?:disk )?quota exceeded/i.test(e.message)) return true
  }
  return false
}

/** What isNoSpace finds true, for room that is found missing without having asked the system for it. */
export function noSpace(message: string): Error {
  return Object.assign(new Error(message), { code: 'ENOSPC' })
}

export function storeFull(dir: string, cause: unknown): ShoalError {
  const why = cause instanceof Error ? `: ${cause.message}` : ''
  return new ShoalError('STORE_FULL', `the block store in ${dir} is full${why}`, { cause })
}

/** Every error that leaves the store is a ShoalError; those of disk and index that nobody expected are STORE_BROKEN. */
export function asStoreError(error: unknown, dir: string): ShoalError {
  if (isShoalError(error)) return error
  if (isNoSpace(error)) return storeFull(dir, error)
  const why = error instanceof Error ? error.message : String(error)
  return new ShoalError('STORE_BROKEN', `the block store in ${dir} failed: ${why}`, { cause: error })
}
