import { request as httpRequest, type IncomingMessage } from 'node:http'
import { ShoalError } from '../../../base/index.ts'
import { aborted } from '../run.ts'

export interface CallOptions {
  signal: AbortSignal
  body?: unknown
  query?: Record<string, string>
  /** ms. Default a minute. */
  timeoutMs?: number
}

/** The Docker Engine API over the daemon's socket. */
export interface DockerApi {
  /** JSON in, JSON out; undefined where there is no body. @throws NOT_FOUND (404) | BUSY (409) | RUNTIME | TIMEOUT | ABORTED */
  call<T = undefined>(method: string, path: string, options: CallOptions): Promise<T>
  /** The body as it comes; to be read or destroyed. Throws the same. */
  stream(method: string, path: string, options: CallOptions): Promise<IncomingMessage>
}

const TIMEOUT_MS = 60_000
const MAX_BYTES = 64 * 2 ** 20

/** Without a version in the path the daemon speaks its own newest one, so there is none to agree on. */
export function createDockerApi(socketPath: string): DockerApi {
  async function stream(method: string, path: string, options: CallOptions): Promise<IncomingMessage> {
    const { body, query, timeoutMs = TIMEOUT_MS } = options
    if (options.signal.aborted) throw aborted(options.signal)
    const late = AbortSignal.timeout(timeoutMs)
    const signal = AbortSignal.any([options.signal, late])
    const text = body === undefined ? undefined : JSON.stringify(body)
    const what = `docker did not ${method} ${path.split('?')[0]}`
    const explain = (error: Error): ShoalError => {
      if (options.signal.aborted) return aborted(options.signal)
      if (late.aborted)
        return new ShoalError('TIMEOUT', `${what} within ${timeoutMs / 1000} s`, { cause: error })
      return new ShoalError('RUNTIME', `docker does not answer at ${socketPath}: ${error.message}`, {
        cause: error,
      })
    }
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const search = query === undefined ? '' : `?${new URLSearchParams(query)}`
      const request = httpRequest(
        {
          socketPath,
          method,
          path: `${path}${search}`,
          signal,
          agent: false,
          headers:
            text === undefined
              ? {}
              : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
        },
        resolve,
      )
      request.on('error', (error) => reject(explain(error)))
      request.end(text)
    })
    const { statusCode = 500 } = response
    // 304: it was so already.
    if (statusCode < 400) return response
    const said = messageOf(await textOf(response).catch(() => ''))
    const code = statusCode === 404 ? 'NOT_FOUND' : statusCode === 409 ? 'BUSY' : 'RUNTIME'
    throw new ShoalError(code, `docker: ${said || `status ${statusCode}`}`, {
      details: { method, path, statusCode },
    })
  }

  return {
    stream,
    async call<T>(method: string, path: string, options: CallOptions): Promise<T> {
      const response = await stream(method, path, options)
      try {
        const text = await textOf(response)
        if (!response.complete) throw new Error('it was cut off')
        return (text === '' ? undefined : JSON.parse(text)) as T
      } catch (error) {
        if (options.signal.aborted) throw aborted(options.signal)
        if (error instanceof ShoalError) throw error
        throw new ShoalError('RUNTIME', `docker's answer to ${method} ${path} broke off`, { cause: error })
      }
    },
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = []
  let size = 0
  for await (const part of response as AsyncIterable<Buffer>) {
    size += part.length
    if (size > MAX_BYTES) throw new ShoalError('RUNTIME', 'docker answers too much')
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

function messageOf(text: string): string {
  try {
    return String((JSON.parse(text) as { message?: unknown }).message ?? '').trim()
  } catch {
    return text.trim().slice(0, 600)
  }
}
