/** Who waits until something has become of a thing. */
export interface Settling {
  /** Something became of it: those who wait look. */
  stir(id: string): void
  /** Resolves when `settled` holds, the time is over, or the signal fires: the caller looks which. */
  until(id: string, settled: () => boolean, options: { waitMs: number; signal: AbortSignal }): Promise<void>
}

export function createSettling(): Settling {
  const watchers = new Map<string, Set<() => void>>()
  return {
    stir(id) {
      for (const watcher of [...(watchers.get(id) ?? [])]) watcher()
    },
    async until(id, settled, { waitMs, signal }) {
      const set = watchers.get(id) ?? new Set()
      watchers.set(id, set)
      await new Promise<void>((resolve) => {
        const finish = (): void => {
          clearTimeout(timer)
          set.delete(watcher)
          if (set.size === 0) watchers.delete(id)
          signal.removeEventListener('abort', finish)
          resolve()
        }
        const watcher = (): void => {
          if (settled()) finish()
        }
        const timer = setTimeout(finish, waitMs)
        signal.addEventListener('abort', finish)
        set.add(watcher)
        watcher()
        if (signal.aborted) finish()
      })
    },
  }
}
