/** Virtual time: nothing happens until `advance`, and then everything in order. */
export interface VirtualClock {
  now(): number
  setTimeout(callback: () => void, ms: number): unknown
  clearTimeout(handle: unknown): void
  /** Lets `ms` pass; promises settle between one timer and the next. */
  advance(ms: number): Promise<void>
  /** Lets time pass until the condition holds; false after `ms`. */
  until(condition: () => boolean, ms: number): Promise<boolean>
}

interface Timer {
  at: number
  order: number
  callback: (() => void) | undefined
}

export function createVirtualClock(): VirtualClock {
  const heap: Timer[] = []
  let time = 0
  let order = 0

  const before = (a: Timer, b: Timer): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

  const push = (timer: Timer): void => {
    let at = heap.push(timer) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(timer, heap[parent]!)) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = timer
  }

  const pop = (): void => {
    const last = heap.pop()!
    if (heap.length === 0) return
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (!before(heap[child]!, last)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
  }

  /** The next timer that has not been cleared. */
  const next = (): Timer | undefined => {
    while (heap[0] !== undefined && heap[0].callback === undefined) pop()
    return heap[0]
  }

  /** Microtasks, and what they start, are done when the event loop gets to its next round. */
  const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

  const run = async (end: number, done: () => boolean): Promise<boolean> => {
    await settle()
    for (;;) {
      if (done()) return true
      const first = next()
      if (first === undefined || first.at > end) break
      time = Math.max(time, first.at)
      // All of one instant, then the promises.
      for (let due = next(); due !== undefined && due.at <= time; due = next()) {
        const { callback } = due
        due.callback = undefined
        callback?.()
      }
      await settle()
    }
    time = end
    return done()
  }

  return {
    now: () => time,
    setTimeout(callback, ms) {
      const timer: Timer = { at: time + Math.max(0, ms), order: order++, callback }
      push(timer)
      return timer
    },
    clearTimeout(handle) {
      ;(handle as Timer).callback = undefined
    },
    advance: async (ms) => void (await run(time + ms, () => false)),
    until: (condition, ms) => run(time + ms, condition),
  }
}
