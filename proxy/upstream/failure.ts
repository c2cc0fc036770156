import { errnoOf, ShoalError } from '../../base/index.ts'

/**
 * Why one request got no answer. `connect`: no connection came about. `tls`: its certificate or handshake is wrong. `reset`: it broke
 * before the answer. `stall`: no answer in time. `busy`: no connection became free in time. `protocol`: not HTTP.
 */
export type FailureKind = 'connect' | 'tls' | 'reset' | 'stall' | 'busy' | 'protocol'

/** One request that got no answer; the retries decide what becomes of it. Never leaves this room. */
export class Failure extends Error {
  readonly kind: FailureKind
  /** Trying again may help. */
  readonly passing: boolean
  /** We waited for long, and nothing at all was heard from that origin meanwhile: not to be done often. */
  readonly silent: boolean
  /** The origin cannot be reached, as far as we can tell: not a matter of this request. */
  readonly dead: boolean

  constructor(
    kind: FailureKind,
    message: string,
    options: { cause?: unknown; passing: boolean; silent: boolean; dead: boolean },
  ) {
    super(message, { cause: options.cause })
    this.kind = kind
    this.passing = options.passing
    this.silent = options.silent
    this.dead = options.dead
  }
}

const CONNECT_ERRNOS = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EHOSTDOWN',
  'ENETDOWN',
  'EADDRNOTAVAIL',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EAI_FAIL',
  'EAI_NODATA',
])

function codeOf(error: unknown): string {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  return typeof code === 'string' ? code : ''
}

/** Sorts what undici or Node threw before an answer came. */
export function classify(error: unknown): Failure {
  if (error instanceof Failure) return error
  const code = codeOf(error)
  const text = error instanceof Error ? error.message : String(error)
  const make = (kind: FailureKind, passing: boolean, silent: boolean): Failure =>
    new Failure(kind, text || code, { cause: error, passing, silent, dead: kind === 'connect' })
  if (code === 'UND_ERR_CONNECT_TIMEOUT') return make('connect', true, true)
  // Several addresses were tried: each error has the errno, the aggregate has the first one's.
  const errno = errnoOf(error) ?? code
  if (CONNECT_ERRNOS.has(errno)) return make('connect', errno !== 'ENOTFOUND', errno === 'ETIMEDOUT')
  if (/^(?:ERR_TLS|ERR_SSL|CERT_|UNABLE_TO|DEPTH_ZERO|SELF_SIGNED|EPROTO)/.test(code)) {
    return make('tls', false, false)
  }
  // A body after a HEAD's answer, for one, shows itself in the answer to what is asked next.
  if (/^HPE_/.test(code)) return make('protocol', true, false)
  if (/^UND_ERR_(?:HEADERS_OVERFLOW|INVALID_ARG)/.test(code)) return make('protocol', false, false)
  return make('reset', true, false)
}

/** What a caller gets when upstream gave no answer. `where` is `HOST/REPOSITORY` or an origin: never a whole URL. */
export function unreachable(where: string, failure: Failure, attempts: number): ShoalError {
  return new ShoalError('UPSTREAM_UNREACHABLE', `${where} cannot be reached: ${failure.message}`, {
    cause: failure,
    details: {
      upstream: where,
      reason: failure.kind,
      errno: errnoOf(failure) ?? codeOf(failure.cause),
      attempts,
    },
  })
}

/** What a caller gets when it gave up itself. */
export function aborted(signal: AbortSignal): ShoalError {
  return new ShoalError('ABORTED', 'the request was cancelled', { cause: signal.reason })
}
