import { isShoalError, ShoalError } from '../../base/index.ts'

export type Subject = 'manifest' | 'blob' | 'name'

/** An error in the form of the distribution spec: a status, a code of the spec's list, and headers to go with them. */
export interface Failure {
  status: number
  code: string
  message: string
  headers: Record<string, string>
}

const UNKNOWN = { manifest: 'MANIFEST_UNKNOWN', blob: 'BLOB_UNKNOWN', name: 'NAME_UNKNOWN' }
/** Seconds after which a client may ask again for what could not be had. */
const AGAIN = { 'Retry-After': '5' }

/**
 * An error whose answer is known where it is thrown. What the push side refuses, the distribution spec names in more ways than
 * other rooms need to tell apart.
 */
export function refusal(
  status: number,
  code: string,
  message: string,
  headers: Record<string, string> = {},
): ShoalError {
  return new ShoalError('USAGE', message, { details: { answer: { status, code, headers } } })
}

/** How an error is told to a client that asked for a `subject`. */
export function failureOf(error: unknown, subject: Subject): Failure {
  if (!(error instanceof ShoalError)) return failure(500, 'UNKNOWN', 'something went wrong in this node')
  const { message, details } = error
  switch (error.code) {
    case 'NAME_INVALID':
    case 'DIGEST_INVALID':
      return failure(400, error.code, message)
    case 'BUSY':
      return failure(429, 'TOOMANYREQUESTS', message, AGAIN)
    case 'USAGE':
      if (details.answer !== undefined) return { message, ...(details.answer as Omit<Failure, 'message'>) }
      return failure(400, 'PAGINATION_NUMBER_INVALID', message)
    case 'NOT_FOUND':
      return failure(404, UNKNOWN[subject], message)
    case 'UNAUTHORIZED': {
      const challenge = typeof details.challenge === 'string' ? details.challenge : undefined
      // A header may hold printable ASCII and tabs only; anything else would make the answer fail.
      const fit = challenge !== undefined && /^[\t -~]+$/.test(challenge)
      return failure(401, 'UNAUTHORIZED', message, fit ? { 'WWW-Authenticate': challenge } : {})
    }
    case 'DENIED':
      return failure(403, 'DENIED', message)
    case 'LOOP':
      return failure(508, 'UNSUPPORTED', message)
    case 'UPSTREAM_STATUS':
      return upstreamStatus(message, details)
    case 'DIGEST_MISMATCH':
      return failure(502, 'DIGEST_INVALID', message)
    case 'PROTOCOL':
      return failure(502, 'MANIFEST_INVALID', message)
    case 'UPSTREAM_UNREACHABLE':
    case 'TIMEOUT':
    case 'PEER_GONE':
    case 'NO_QUORUM':
    case 'STORE_FULL':
    case 'BLOCK_MISSING':
    case 'BLOCK_CORRUPT':
      return failure(503, 'UNAVAILABLE', message, AGAIN)
    default:
      return failure(500, 'UNKNOWN', message)
  }
}

function upstreamStatus(message: string, details: Readonly<Record<string, unknown>>): Failure {
  const { status, retryAfter } = details
  if (status === 429) {
    const after = typeof retryAfter === 'string' || typeof retryAfter === 'number' ? String(retryAfter) : ''
    const fit = /^[\w ,:+-]+$/.test(after)
    return failure(429, 'TOOMANYREQUESTS', message, fit ? { 'Retry-After': after } : {})
  }
  if (status === 508) return failure(508, 'UNSUPPORTED', message)
  if (typeof status === 'number' && status < 500) return failure(502, 'UNKNOWN', message)
  return failure(503, 'UNAVAILABLE', message, AGAIN)
}

function failure(
  status: number,
  code: string,
  message: string,
  headers: Record<string, string> = {},
): Failure {
  return { status, code, message, headers }
}

/** True when upstream could not be asked, in contrast to having answered no: what stale answers are for. */
export function isOutage(error: unknown): error is ShoalError {
  if (isShoalError(error, 'UPSTREAM_UNREACHABLE', 'TIMEOUT')) return true
  if (!isShoalError(error, 'UPSTREAM_STATUS')) return false
  const { status } = error.details
  return status === 429 || (typeof status === 'number' && status >= 500 && status !== 508)
}
