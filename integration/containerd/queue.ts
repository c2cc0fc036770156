/** Things to be done one at a time, each not before its time; of those whose time has come the latest first, as it is what is in use. */
export interface Queue<T> {
  /** Puts off what is in it already, or brings it forward. */
  add(item: T, dueMs: number): void
  delete(item: T): void
  /** Resolves when nothing is being worked on. */
  idle(): Promise<void>
}

/** @param work what is done with an item; it sees to its failures itself */
export function createQueue<T>({
  work,
  signal,
}: {
  work: (item: T) => Promise<void>
  signal: AbortSignal
}): Queue<T> {
  const due = new Map<T, number>()
  let timer: NodeJS.Timeout | undefined
  let running: Promise<void> | undefined

  function pump(): void {
    clearTimeout(timer)
    if (running || signal.aborted) return
    const now = Date.now()
    let latest: { item: T; at: number } | undefined
    let next = Number.POSITIVE_INFINITY
    for (const [item, at] of due) {
      if (at > now) next = Math.min(next, at)
      else if (latest === undefined || at > latest.at) latest = { item, at }
    }
    if (latest === undefined) {
      if (due.size === 0) return
      timer = setTimeout(pump, next - now)
      timer.unref()
      return
    }
    const { item } = latest
    due.delete(item)
    running = work(item).finally(() => {
      running = undefined
      pump()
    })
  }

  signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  return {
    add(item, dueMs) {
      due.set(item, dueMs)
      pump()
    },
    delete: (item) => void due.delete(item),
    idle: async () => running,
  }
}
