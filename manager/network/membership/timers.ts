import { ShoalError } from '../../../base/index.ts'

/** Timers, to be replaced by virtual ones in tests. */
export interface Timers {
  setTimeout(callback: () => void, ms: number): unknown
  clearTimeout(handle: unknown): void
}

export function realTimers(): Timers {
  return {
    setTimeout: (callback, ms) => setTimeout(callback, ms),
    clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
  }
}

/** Runs `action` with a signal that aborts with `outer`, or with TIMEOUT after `ms`. Leaves no timer behind. */
export async function within<T>(
  timers: Timers,
  ms: number,
  outer: AbortSignal,
  action: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const limit = new AbortController()
  const onAbort = (): void => limit.abort(outer.reason)
  if (outer.aborted) onAbort()
  outer.addEventListener('abort', onAbort)
  const timer = timers.setTimeout(() => limit.abort(new ShoalError('TIMEOUT', `not done in ${ms} ms`)), ms)
  try {
    return await action(limit.signal)
  } finally {
    timers.clearTimeout(timer)
    outer.removeEventListener('abort', onAbort)
  }
}
