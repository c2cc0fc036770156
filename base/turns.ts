/** Runs what is given one after the other for each key, and at most `atOnce` at a time over all keys. */
export interface Turns {
  run<T>(key: string, body: () => Promise<T>): Promise<T>
  /** Resolves when nothing is under way or waits. */
  idle(): Promise<void>
}

export function createTurns(atOnce = Number.POSITIVE_INFINITY): Turns {
  const last = new Map<string, Promise<unknown>>()
  const waiting: (() => void)[] = []
  let free = atOnce

  async function slot<T>(body: () => Promise<T>): Promise<T> {
    if (free > 0) free--
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await body()
    } finally {
      const next = waiting.shift()
      if (next === undefined) free++
      else next()
    }
  }

  return {
    run(key, body) {
      const before = last.get(key) ?? Promise.resolve()
      const mine = before.then(
        () => slot(body),
        () => slot(body),
      )
      const settled = mine.then(
        () => {},
        () => {},
      )
      last.set(key, settled)
      void settled.then(() => {
        if (last.get(key) === settled) last.delete(key)
      })
      return mine
    },
    async idle() {
      while (last.size > 0) await Promise.all(last.values())
    },
  }
}
