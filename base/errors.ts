/** Every code that a `ShoalError` may carry. Codes are stable: scripts, tests and peers match on them. */
export type ErrorCode =
  | 'ABORTED'
  | 'BLOCK_CORRUPT'
  | 'BLOCK_MISMATCH'
  | 'BLOCK_MISSING'
  | 'BUSY'
  | 'CONFIG'
  | 'DENIED'
  | 'DIGEST_INVALID'
  | 'DIGEST_MISMATCH'
  | 'INTERNAL'
  | 'LOOP'
  | 'NAME_INVALID'
  | 'NOT_FOUND'
  | 'NO_DAEMON'
  | 'NO_QUORUM'
  | 'PEER_GONE'
  | 'PROTOCOL'
  | 'RANGE_INVALID'
  | 'RUNTIME'
  | 'STORE_BROKEN'
  | 'STORE_FULL'
  | 'STORE_LOCKED'
  | 'TIMEOUT'
  | 'UNAUTHORIZED'
  | 'UNFIT'
  | 'UPSTREAM_STATUS'
  | 'UPSTREAM_UNREACHABLE'
  | 'USAGE'

/** The one error base. `code` is for programs, `message` for people, `details` for logs (JSON-safe, no secrets). */
export class ShoalError extends Error {
  readonly code: ErrorCode
  readonly details: Readonly<Record<string, unknown>>

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'ShoalError'
    this.code = code
    this.details = options.details ?? {}
  }
}

/** True when `error` is a `ShoalError`, and of one of `codes` where any are given. */
export function isShoalError(error: unknown, ...codes: ErrorCode[]): error is ShoalError {
  return error instanceof ShoalError && (codes.length === 0 || codes.includes(error.code))
}

/** The system's errno code (`ENOSPC`, `ECONNREFUSED`, …) of an error or of its causes, if there is one. */
export function errnoOf(error: unknown): string | undefined {
  for (let e = error, depth = 0; e instanceof Error && depth < 5; e = e.cause, depth++) {
    const code = (e as NodeJS.ErrnoException).code
    if (typeof code === 'string' && /^E[A-Z]+$/.test(code)) return code
  }
  return undefined
}
