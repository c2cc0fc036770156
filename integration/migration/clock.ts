import { setTimeout as wait } from 'node:timers/promises'

/** The time; tests have one of their own that runs faster. */
export interface Clock {
  /** ms since the epoch. */
  now(): number
  /** Resolves after so long, or at once when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  now: Date.now,
  sleep: (ms, signal) => wait(ms, undefined, signal ? { signal } : {}).catch(() => {}),
}
