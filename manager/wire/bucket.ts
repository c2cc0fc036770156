import type { Priority } from '../types.ts'
import { createTurns } from './turns.ts'

interface Waiter {
  bytes: number
  grant: () => void
}

export interface Bucket {
  /**
   * Asks for the right to move `bytes`. True: granted at once. False: `grant` is called later. What a client waits for goes
   * before preheating, else the order is kept.
   */
  take(bytes: number, priority: Priority, grant: () => void): boolean
  /** Withdraws a `take` that was not granted yet. */
  withdraw(grant: () => void): void
  /** Bytes a second; undefined lifts the limit and grants all that wait. */
  setRate(rate: number | undefined): void
  readonly rate: number | undefined
  close(): void
}

const BURST_SECONDS = 0.1
const MIN_BURST = 16 * 1024

/**
 * A token bucket. A grant needs a positive balance and may overdraw it, so one larger than the burst is not refused for
 * ever and the rate still holds on average.
 */
export function createBucket(deps: { rate?: number | undefined; now?: () => number }): Bucket {
  const { now = () => performance.now() } = deps
  const waiting = createTurns<Waiter>()
  let rate = deps.rate
  let balance = 0
  let filledAt = now()
  let timer: NodeJS.Timeout | undefined

  const burst = (): number => Math.max(MIN_BURST, (rate ?? 0) * BURST_SECONDS)

  function refill(): void {
    const at = now()
    if (rate !== undefined) balance = Math.min(burst(), balance + ((at - filledAt) / 1000) * rate)
    filledAt = at
  }

  function serve(): void {
    timer = undefined
    refill()
    while (rate === undefined || balance > 0) {
      const waiter = waiting.shift()
      if (!waiter) return
      if (rate !== undefined) balance -= waiter.bytes
      waiter.grant()
    }
    schedule()
  }

  function schedule(): void {
    if (timer || rate === undefined || waiting.size === 0) return
    // Not before the balance is positive again; a millisecond more keeps rounding from waking us in vain.
    timer = setTimeout(serve, Math.min(1000, Math.max(0, (-balance / rate) * 1000) + 1))
  }

  return {
    take(bytes, priority, grant) {
      if (rate === undefined) return true
      refill()
      if (balance > 0 && waiting.size === 0) {
        balance -= bytes
        return true
      }
      waiting.push(priority, { bytes, grant })
      schedule()
      return false
    },
    withdraw(grant) {
      waiting.remove((waiter) => waiter.grant === grant)
    },
    setRate(next) {
      refill()
      rate = next !== undefined && next > 0 ? next : undefined
      clearTimeout(timer)
      timer = undefined
      // A debt of the old rate is not paid off at a new, slower one.
      balance = Math.max(balance, 0)
      serve()
    },
    get rate() {
      return rate
    },
    close() {
      clearTimeout(timer)
      waiting.clear()
    },
  }
}
