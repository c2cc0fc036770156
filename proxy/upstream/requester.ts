import { setTimeout as sleep } from 'node:timers/promises'
import { type Log, ShoalError } from '../../base/index.ts'
import { backoffMs, retryAfterMs } from './backoff.ts'
import type { Circuits } from './circuit.ts'
import { aborted, Failure, unreachable } from './failure.ts'
import type { Transport, TransportAnswer } from './transport.ts'

const MAX_REDIRECTS = 5
const REDIRECTS = new Set([301, 302, 303, 307, 308])
const PASSING = new Set([408, 429, 500, 502, 503, 504])

export interface Ask {
  url: URL
  method: 'GET' | 'HEAD' | 'POST'
  headers: Record<string, string>
  /** Sent to the URL's own origin only, wherever it redirects to. */
  ownHeaders: Record<string, string>
  body?: string
  /** What comes is checked against a digest, so a redirect from https to http does no harm. */
  verified: boolean
  signal: AbortSignal
  /** On `performance.now()`: when the answer's headers must be here, retries included. */
  deadline: number
  /** `HOST/REPOSITORY`, for errors and logs. */
  where: string
}

export interface Reply extends TransportAnswer {
  /** Where it came from in the end. */
  url: URL
  /** That is another origin than was asked: a blob store, which knows nothing of the registry's log-ins. */
  foreign: boolean
  /** The first Docker-Content-Digest on the way. */
  digest: string | undefined
}

/** Requests with redirects, retries and the circuits. An answer of any status is an answer. */
export interface Requester {
  /** @throws UPSTREAM_UNREACHABLE | ABORTED */
  ask(request: Ask): Promise<Reply>
}

/** One attempt that came to nothing. */
interface Miss {
  failure: Failure
  origin: string
  probe: boolean
}

export function createRequester(options: {
  transport: Transport
  circuits: Circuits
  retries: number
  log: Log
}): Requester {
  const { transport, circuits, retries, log } = options

  /** Follows redirects. */
  async function once(request: Ask): Promise<Reply | Miss> {
    let { url, ownHeaders } = request
    let digest: string | undefined
    for (let hop = 0; ; hop++) {
      const pass = circuits.enter(url.origin)
      let answer: TransportAnswer
      try {
        answer = await transport.send({
          url,
          method: request.method,
          headers: {
            ...request.headers,
            'accept-encoding': 'identity',
            'user-agent': 'shoal',
            ...ownHeaders,
          },
          ...(request.body === undefined ? {} : { body: request.body }),
          signal: request.signal,
          deadline: request.deadline,
          where: request.where,
        })
      } catch (error) {
        const failure = error instanceof Failure ? error : undefined
        pass.failed(failure?.dead ?? false)
        if (!failure) throw error
        return { failure, origin: url.origin, probe: pass.probe }
      }
      pass.reached()
      digest ??= answer.headers['docker-content-digest']
      const { location } = answer.headers
      if (!REDIRECTS.has(answer.status) || location === undefined || request.method === 'POST') {
        return { ...answer, url, foreign: url.origin !== request.url.origin, digest }
      }
      answer.body.discard()
      const next = URL.canParse(location, url.href) ? new URL(location, url) : undefined
      const downgrade = url.protocol === 'https:' && next?.protocol === 'http:' && !request.verified
      if (!next || !/^https?:$/.test(next.protocol) || downgrade || hop === MAX_REDIRECTS) {
        const why = hop === MAX_REDIRECTS ? 'too often' : 'to a place we do not go'
        throw new ShoalError('UPSTREAM_STATUS', `${request.where} redirects ${why}`, {
          details: { status: answer.status, upstream: request.where },
        })
      }
      if (next.origin !== request.url.origin) ownHeaders = {}
      url = next
    }
  }

  async function ask(request: Ask): Promise<Reply> {
    const { where, signal } = request
    /** Some attempt found the origin out of reach. The last one may have had too little time left to say so. */
    let dead = false
    for (let attempt = 0; ; attempt++) {
      const result = await once(request)
      let wait = backoffMs(attempt)
      if ('failure' in result) {
        const { failure, origin, probe } = result
        dead ||= failure.dead
        // What kept silent or broke off may do so on every connection that lay idle: they may have been dead for long.
        if (failure.silent || failure.kind === 'reset' || failure.kind === 'protocol') transport.renew(origin)
        if (failure.kind === 'reset' && attempt === 0) wait = 0
        const most = probe || !failure.passing ? 0 : failure.silent ? Math.min(1, retries) : retries
        if (attempt >= most || performance.now() + wait >= request.deadline) {
          if (dead) {
            circuits.open(origin, failure.message)
            log.warn(
              { upstream: where, origin, reason: failure.kind, err: failure },
              'upstream is unreachable',
            )
          }
          throw unreachable(where, failure, attempt + 1)
        }
        log.debug({ upstream: where, attempt, wait, err: failure }, 'trying upstream again')
      } else {
        if (!PASSING.has(result.status)) return result
        wait = Math.max(wait, retryAfterMs(result.headers['retry-after']) ?? 0)
        if (attempt >= retries || performance.now() + wait >= request.deadline) return result
        result.body.discard()
        log.debug({ upstream: where, attempt, wait, status: result.status }, 'trying upstream again')
      }
      await sleep(wait, undefined, { signal }).catch(() => {
        throw aborted(signal)
      })
    }
  }

  return { ask }
}
