/** One work at a time for a key. */
export type Turns = <T>(key: string, work: () => Promise<T>) => Promise<T>

export function createTurns(): Turns {
  const running = new Map<string, Promise<unknown>>()
  return async (key, work) => {
    const before = running.get(key) ?? Promise.resolve()
    const turn = before.catch(() => {}).then(work)
    running.set(key, turn)
    try {
      return await turn
    } finally {
      if (running.get(key) === turn) running.delete(key)
    }
  }
}
