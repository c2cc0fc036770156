const FIRST_MS = 200
const MOST_MS = 5000

/** Milliseconds before retry number `attempt` (0 is the first): doubling, with the half of it random so that nodes do not go in step. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const full = Math.min(MOST_MS, FIRST_MS * 2 ** attempt)
  return full / 2 + (full / 2) * random()
}

/** Milliseconds that a `Retry-After` asks for (seconds or an HTTP date), undefined when it is missing or nonsense. */
export function retryAfterMs(header: string | undefined, now: number = Date.now()): number | undefined {
  if (header === undefined) return undefined
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000
  const at = /[a-z]{3}/i.test(header) ? Date.parse(header) : Number.NaN
  return Number.isNaN(at) ? undefined : Math.max(0, at - now)
}
