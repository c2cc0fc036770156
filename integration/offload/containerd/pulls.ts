/** Pulls of images, each done once for all who want it at the same time. It is given up when none of them wants it any more. */
export interface Pulls {
  pull(image: string, signal: AbortSignal): Promise<void>
}

interface Pull {
  done: Promise<void>
  wanted: number
  abort: AbortController
}

/** Clients of containerd that pull one image at the same time fetch it once, but each of them unpacks it. */
export function createPulls(work: (image: string, signal: AbortSignal) => Promise<void>): Pulls {
  const underway = new Map<string, Pull>()

  function begin(image: string): Pull {
    const abort = new AbortController()
    const begun: Pull = { done: work(image, abort.signal), wanted: 0, abort }
    underway.set(image, begun)
    const end = (): void => {
      if (underway.get(image) === begun) underway.delete(image)
    }
    begun.done.then(end, end)
    return begun
  }

  return {
    async pull(image, signal) {
      signal.throwIfAborted()
      const pull = underway.get(image) ?? begin(image)
      pull.wanted++
      const { promise: given, reject } = Promise.withResolvers<never>()
      const giveUp = (): void => reject(signal.reason)
      signal.addEventListener('abort', giveUp, { once: true })
      try {
        await Promise.race([pull.done, given])
      } finally {
        signal.removeEventListener('abort', giveUp)
        if (--pull.wanted === 0 && underway.get(image) === pull) {
          underway.delete(image)
          pull.abort.abort(signal.reason)
        }
      }
    },
  }
}
