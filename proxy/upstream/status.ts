import { ShoalError } from '../../base/index.ts'
import { retryAfterMs } from './backoff.ts'
import { readAll } from './body.ts'
import type { Reply } from './requester.ts'

const MESSAGE_BYTES = 16 * 1024
const MESSAGE_MS = 1000

/** The error for an answer that is none of those wanted, with what upstream says of it. Takes care of the body. */
export async function statusError(reply: Reply, where: string): Promise<ShoalError> {
  const { status, headers, foreign } = reply
  const said = await messageOf(reply, where)
  const text = `${where}: upstream answered ${status}${said === undefined ? '' : ` (${said})`}`
  const details: Record<string, unknown> = { upstream: where, status }
  // A blob store's refusal is about its own signatures: not of the client's rights at the registry.
  if (status === 401 && !foreign) {
    return new ShoalError('UNAUTHORIZED', text, {
      details: { ...details, challenge: headers['www-authenticate'] },
    })
  }
  if (status === 403 && !foreign) return new ShoalError('DENIED', text, { details })
  if (status === 404) return new ShoalError('NOT_FOUND', text, { details })
  const later = retryAfterMs(headers['retry-after'])
  // Seconds.
  if (later !== undefined) details.retryAfter = Math.ceil(later / 1000)
  return new ShoalError('UPSTREAM_STATUS', text, { details })
}

/** The first message of an OCI error body, if there is one and it comes at once. */
async function messageOf(reply: Reply, where: string): Promise<string | undefined> {
  const timer = setTimeout(() => reply.body.discard(), MESSAGE_MS)
  try {
    const json: unknown = JSON.parse((await readAll(reply.body, MESSAGE_BYTES, where)).toString('utf8'))
    const { errors } = json as { errors?: { message?: unknown }[] }
    const message = errors?.[0]?.message
    return typeof message === 'string' ? message.slice(0, 300) : undefined
  } catch {
    return undefined
  } finally {
    clearTimeout(timer)
  }
}
