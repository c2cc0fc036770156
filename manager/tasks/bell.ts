/** Something changed: wakes all who wait. A missed ring is no loss as long as each waiter looks before it waits. */
export interface Bell {
  ring(): void
  /** Resolves at the next ring, or after `ms` where given; rejects with the signal's reason. */
  wait(signal: AbortSignal, ms?: number): Promise<void>
}

export function createBell(): Bell {
  let waiting: (() => void)[] = []
  return {
    ring() {
      const woken = waiting
      waiting = []
      for (const wake of woken) wake()
    },
    wait(signal, ms) {
      return new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason)
        let timer: NodeJS.Timeout | undefined
        const abort = (): void => {
          clearTimeout(timer)
          reject(signal.reason)
        }
        const wake = (): void => {
          clearTimeout(timer)
          signal.removeEventListener('abort', abort)
          resolve()
        }
        if (ms !== undefined) timer = setTimeout(wake, ms)
        signal.addEventListener('abort', abort, { once: true })
        waiting.push(wake)
      })
    },
  }
}
