import { aborted } from './faults.ts'

/** Runs one piece of work at a time, in the order of asking. A piece that fails does not stop the next. */
export interface Mutex {
  run<T>(work: () => Promise<T>): Promise<T>
}

export function createMutex(): Mutex {
  let tail: Promise<unknown> = Promise.resolve()
  return {
    run(work) {
      const turn = tail.then(work)
      tail = turn.catch(() => {})
      return turn
    },
  }
}

/** Admits `count` at a time, in the order of asking. */
export interface Slots {
  /** Resolves to the function that gives the slot back. @throws ABORTED */
  enter(signal?: AbortSignal): Promise<() => void>
  /** How many are in now. */
  readonly taken: number
}

export function createSlots(count: number): Slots {
  let free = count
  const waiting = new Set<() => void>()
  const leave = (): void => {
    const next = waiting.values().next()
    if (next.done) {
      free++
      return
    }
    waiting.delete(next.value)
    next.value()
  }
  return {
    get taken() {
      return count - free
    },
    async enter(signal) {
      if (free > 0) free--
      else
        await new Promise<void>((resolve, reject) => {
          const onAbort = (): void => {
            waiting.delete(admit)
            reject(aborted(signal))
          }
          const admit = (): void => {
            signal?.removeEventListener('abort', onAbort)
            resolve()
          }
          waiting.add(admit)
          signal?.addEventListener('abort', onAbort, { once: true })
        })
      let left = false
      return () => {
        if (left) return
        left = true
        leave()
      }
    },
  }
}
