import type { Log } from '../../../base/index.ts'

const FIRST_MS = 500
const MAX_MS = 5000
/** Between a failure and the next attempt at least. */
const GAP_MS = 200
const PARALLEL = 4

/** Something that may lead back to the cluster, tried again and again: a bootstrap address or a dead member. */
interface Trail {
  attempt(signal: AbortSignal): Promise<boolean>
  /** True when there is nothing to be gained by trying. */
  idle(): boolean
  nextAt: number
  delayMs: number
  tried: boolean
  running: boolean
}

/** Tries what may lead back to lost members, at growing intervals of up to 5 s with jitter, a few at a time. */
export interface Healer {
  /**
   * `attempt` tells whether it found somebody; `idle`, whether there is nothing to gain by trying; `afterMs`, when to try
   * first, 0 unless given. A trail that is followed already stays as it is.
   */
  follow(
    key: string,
    trail: { attempt(signal: AbortSignal): Promise<boolean>; idle?(): boolean; afterMs?: number },
  ): void
  forget(key: string): void
  tick(now: number): void
  /** When the next tick has something to do, as far as can be told now. */
  nextDue(): number
  /** Resolves when the first attempt succeeded, or everything known at the start was tried, or there is nothing. */
  readonly settled: Promise<void>
  close(): void
}

export function createHealer(options: { random(): number; clock(): number; log: Log }): Healer {
  const { random, clock, log } = options
  const trails = new Map<string, Trail>()
  const { promise: settled, resolve: settle } = Promise.withResolvers<void>()
  const stop = new AbortController()
  let running = 0

  const run = async (key: string, trail: Trail): Promise<void> => {
    running++
    trail.running = true
    let found = false
    const startedAt = clock()
    try {
      found = await trail.attempt(stop.signal)
    } catch (error) {
      log.debug({ trail: key, err: error }, 'not reached')
    }
    running--
    trail.running = false
    trail.tried = true
    // Jitter keeps two halves of a cluster from dialling in step.
    trail.nextAt = Math.max(clock() + GAP_MS, startedAt + trail.delayMs * (0.7 + 0.3 * random()))
    // Found, and lost again later: then it is urgent anew.
    trail.delayMs = found && trail.idle() ? FIRST_MS : Math.min(MAX_MS, trail.delayMs * 2)
    if (found || [...trails.values()].every((other) => other.tried)) settle()
  }

  return {
    settled,
    follow(key, { attempt, idle = () => false, afterMs = 0 }) {
      if (trails.has(key)) return
      trails.set(key, {
        attempt,
        idle,
        nextAt: clock() + afterMs,
        delayMs: FIRST_MS,
        tried: false,
        running: false,
      })
    },
    forget: (key) => void trails.delete(key),
    tick(now) {
      if (trails.size === 0) settle()
      if (running >= PARALLEL) return
      const due = [...trails].filter(([, trail]) => !trail.running && trail.nextAt <= now && !trail.idle())
      due.sort((a, b) => a[1].nextAt - b[1].nextAt)
      for (const [key, trail] of due.slice(0, PARALLEL - running)) void run(key, trail)
    },
    nextDue() {
      let due = Number.POSITIVE_INFINITY
      if (running >= PARALLEL) return due
      for (const trail of trails.values())
        if (!trail.running && !trail.idle()) due = Math.min(due, trail.nextAt)
      return due
    },
    close() {
      stop.abort()
      settle()
    },
  }
}
