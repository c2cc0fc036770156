import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { errnoOf, isShoalError, ShoalError } from '../../base/index.ts'
import { checkTarget, createLookup } from './callback-target.ts'

export interface ExchangeOptions {
  method: 'GET' | 'POST'
  url: string
  /** JSON text. */
  body?: string
  /** For all of it, answer included. */
  timeoutMs: number
  /** Bytes of the answer's body; what is longer is an error, or with 0 not read at all. */
  maxAnswer: number
  allowLoopback: boolean
  signal: AbortSignal
}

/**
 * One request to a machine that a device named. Redirects are not followed, nothing is kept open, and no more is read than was asked for.
 * @throws UPSTREAM_UNREACHABLE | TIMEOUT | PROTOCOL (the answer is too long) | DENIED | USAGE (not a place to send to) | ABORTED
 */
export async function exchange(options: ExchangeOptions): Promise<{ status: number; text: string }> {
  const { method, body, timeoutMs, maxAnswer, allowLoopback } = options
  const url = checkTarget(options.url, { allowLoopback })
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(timeoutMs)])
  const send = url.protocol === 'https:' ? httpsRequest : httpRequest
  let answer: IncomingMessage | undefined
  try {
    answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const req = send(url, {
        method,
        agent: false,
        signal,
        lookup: createLookup(allowLoopback),
        maxHeaderSize: 16 * 1024,
        headers: {
          Accept: 'application/json',
          'User-Agent': 'shoal',
          ...(body === undefined
            ? {}
            : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }),
        },
      })
      req.on('error', reject)
      req.on('response', resolve)
      req.end(body)
    })
    return { status: answer.statusCode ?? 0, text: maxAnswer === 0 ? '' : await read(answer, maxAnswer) }
  } catch (cause) {
    if (options.signal.aborted) throw new ShoalError('ABORTED', 'stopping', { cause })
    if (signal.aborted) throw new ShoalError('TIMEOUT', `${url.host} did not answer in time`, { cause })
    if (isShoalError(cause)) throw cause
    const reason = errnoOf(cause) ?? (cause as Error).message
    throw new ShoalError('UPSTREAM_UNREACHABLE', `${url.host} cannot be reached: ${reason}`, { cause })
  } finally {
    // Errors of a body that nobody reads any more are nobody's.
    answer?.on('error', () => {})
    answer?.destroy()
  }
}

async function read(answer: IncomingMessage, max: number): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > max) throw new ShoalError('PROTOCOL', `the answer has more than ${max} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}
