/** Signed addresses of usual blob stores live for minutes. */
const KEEP_MS = 60_000
const MOST = 256

/**
 * Where a registry sent us for a blob, so that the next ranges of it go there at once: saves a round trip, and a request that
 * counts at the registry, a lease. The address is a secret like a token: it is never logged.
 */
export interface Shortcuts {
  find(key: string): URL | undefined
  keep(key: string, url: URL): void
  forget(key: string): void
}

export function createShortcuts(now: () => number = () => performance.now()): Shortcuts {
  const known = new Map<string, { url: URL; until: number }>()
  return {
    find(key) {
      const entry = known.get(key)
      if (entry && entry.until > now()) return entry.url
      known.delete(key)
      return undefined
    },
    keep(key, url) {
      known.delete(key)
      known.set(key, { url, until: now() + KEEP_MS })
      for (const oldest of known.keys()) {
        if (known.size <= MOST) break
        known.delete(oldest)
      }
    },
    forget: (key) => void known.delete(key),
  }
}
