import { ShoalError } from '../../base/index.ts'

/** Runs `work` once for all who ask for the same key at the same time. It is aborted when all of them have gone. */
export type Share<T> = (
  key: string,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
) => Promise<T>

interface Running<T> {
  result: Promise<T>
  waiters: number
  stop: AbortController
}

export function createShare<T>(): Share<T> {
  const running = new Map<string, Running<T>>()

  function start(key: string, work: (signal: AbortSignal) => Promise<T>): Running<T> {
    const stop = new AbortController()
    const entry: Running<T> = { result: work(stop.signal), waiters: 0, stop }
    const forget = (): void => {
      if (running.get(key) === entry) running.delete(key)
    }
    entry.result.then(forget, forget)
    running.set(key, entry)
    return entry
  }

  return async (key, signal, work) => {
    throwIfGone(signal)
    const entry = running.get(key) ?? start(key, work)
    entry.waiters++
    try {
      return await until(entry.result, signal)
    } finally {
      if (--entry.waiters === 0 && running.get(key) === entry) {
        // Whoever comes now must not join work that is being given up.
        running.delete(key)
        entry.stop.abort(new ShoalError('ABORTED', 'nobody waits for it any more'))
      }
    }
  }
}

/** As the promise, but no later than the signal: not everything that is awaited gives up at once. */
export function until<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(reasonOf(signal))
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/** Why a signal was aborted, as a ShoalError: its own reason where that is one, else ABORTED. */
export function reasonOf(signal: AbortSignal): ShoalError {
  const { reason } = signal
  return reason instanceof ShoalError ? reason : new ShoalError('ABORTED', 'given up', { cause: reason })
}

/** @throws reasonOf(signal) */
export function throwIfGone(signal: AbortSignal): void {
  if (signal.aborted) throw reasonOf(signal)
}
