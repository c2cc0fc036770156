/** One value at a time from who makes them to who reads them. */
export interface Handover<T> {
  /** Resolves when the reader asked for the next one, or nothing is read any more. */
  put(value: T): Promise<void>
  /** No more values; the reader gets the error, if there is one. */
  end(error: unknown): void
  values(): AsyncGenerator<T>
}

export function createHandover<T>(): Handover<T> {
  let waiting: { value: T; taken: () => void } | undefined
  let over: { error: unknown } | undefined
  let wake = (): void => {}

  return {
    put(value) {
      if (over) return Promise.resolve()
      return new Promise((taken) => {
        waiting = { value, taken }
        wake()
      })
    },
    end(error) {
      over ??= { error }
      waiting?.taken()
      wake()
    },
    async *values() {
      for (;;) {
        while (!waiting && !over) await new Promise<void>((resolve) => (wake = resolve))
        if (over?.error !== undefined) throw over.error
        if (!waiting) return
        const { value, taken } = waiting
        yield value
        waiting = undefined
        taken()
      }
    },
  }
}
