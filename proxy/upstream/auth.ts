import { type Log, ShoalError } from '../../base/index.ts'
import { readAll } from './body.ts'
import { type Challenge, parseChallenges } from './challenge.ts'
import { aborted } from './failure.ts'
import type { Target } from './hosts.ts'
import type { Requester } from './requester.ts'
import type { Secret, Secrets } from './secrets.ts'

/** Bounds a dance, whoever waits for it. */
const DANCE_MS = 15_000
/** The token specification's value where the server gives none. */
const DEFAULT_LIFE_S = 60
const MAX_STATES = 1024
const MAX_TOKEN_ANSWER = 256 * 1024

export interface Patience {
  signal: AbortSignal
  /** On `performance.now()`. */
  deadline: number
}

/** The node's own log-ins at the registries: Basic, or the token dance of the distribution specification. */
export interface Auth {
  /** The header that was good last time, renewed if it has expired; undefined: ask without. */
  current(target: Target, patience: Patience): Promise<string | undefined>
  /**
   * The header that answers a 401 with this `WWW-Authenticate`, after `used` did not do. Requests for one repository share
   * a dance. Undefined: there is nothing else that we could say.
   * @throws UNAUTHORIZED (the token server refuses us) | UPSTREAM_STATUS | UPSTREAM_UNREACHABLE
   */
  answer(
    target: Target,
    challenge: string | undefined,
    used: string | undefined,
    patience: Patience,
  ): Promise<string | undefined>
  /** The header did not do although it was fresh: forget it, and what it was made of. */
  refused(target: Target): void
}

interface State {
  challenge: string
  header: string | undefined
  /** On `performance.now()`. */
  until: number
  pending: Promise<string | undefined> | undefined
}

export function createAuth(options: { secrets: Secrets; requester: Requester; log: Log }): Auth {
  const { secrets, requester, log } = options
  const states = new Map<string, State>()

  /** Starts a dance or joins the one under way. */
  function dance(target: Target, challenge: string): Promise<string | undefined> {
    const before = states.get(target.label)
    if (before?.pending) return before.pending
    const state: State = { challenge, header: undefined, until: 0, pending: undefined }
    states.delete(target.label)
    states.set(target.label, state)
    for (const oldest of states.keys()) {
      if (states.size <= MAX_STATES) break
      states.delete(oldest)
    }
    state.pending = authorize(target, challenge)
      .then(({ header, lifeMs }) => {
        state.header = header
        state.until = performance.now() + lifeMs
        return header
      })
      .finally(() => {
        state.pending = undefined
      })
    return state.pending
  }

  async function authorize(
    target: Target,
    text: string,
  ): Promise<{ header: string | undefined; lifeMs: number }> {
    const challenges = parseChallenges(text)
    const bearer = challenges.find(({ scheme, params }) => scheme === 'bearer' && params.realm !== undefined)
    const basic = challenges.find(({ scheme }) => scheme === 'basic')
    const signal = AbortSignal.timeout(DANCE_MS)
    const secret = await secrets.find(target, signal)
    if (bearer) return token(target, bearer, secret, text, signal)
    const lifeMs = Number.POSITIVE_INFINITY
    if (basic && secret && 'password' in secret) return { header: basicHeader(secret), lifeMs }
    return { header: undefined, lifeMs }
  }

  async function token(
    target: Target,
    bearer: Challenge,
    secret: Secret | undefined,
    challenge: string,
    signal: AbortSignal,
  ): Promise<{ header: string; lifeMs: number }> {
    const { realm = '', service, scope = `repository:${target.repository}:pull` } = bearer.params
    const url = URL.canParse(realm) ? new URL(realm) : undefined
    const refuse = (message: string): ShoalError =>
      new ShoalError('UNAUTHORIZED', `${target.label}: ${message}`, {
        details: { upstream: target.label, challenge },
      })
    if (!url || !/^https?:$/.test(url.protocol)) throw refuse('upstream names no usable token server')
    if (secret && url.protocol === 'http:' && target.origin.startsWith('https:')) {
      log.warn(
        { upstream: target.label, realm: url.origin },
        'credentials are not sent to a token server without TLS',
      )
      throw refuse('its token server has no TLS, so credentials are not sent there')
    }

    const fields: [string, string][] = []
    if (service !== undefined) fields.push(['service', service])
    const post = secret && 'identityToken' in secret
    if (post) {
      fields.push(['grant_type', 'refresh_token'], ['refresh_token', secret.identityToken])
      fields.push(['client_id', 'shoal'], ['scope', scope])
    } else {
      for (const one of scope.split(' ')) if (one !== '') fields.push(['scope', one])
      if (secret) fields.push(['account', secret.username])
      for (const [name, value] of fields) url.searchParams.append(name, value)
    }
    const reply = await requester.ask({
      url,
      method: post ? 'POST' : 'GET',
      headers: {
        accept: 'application/json',
        ...(post ? { 'content-type': 'application/x-www-form-urlencoded' } : {}),
      },
      ownHeaders: secret && 'password' in secret ? { authorization: basicHeader(secret) } : {},
      ...(post ? { body: new URLSearchParams(fields).toString() } : {}),
      verified: false,
      signal,
      deadline: performance.now() + DANCE_MS,
      where: url.origin,
    })
    if (reply.status !== 200) {
      reply.body.discard()
      if (reply.status >= 400 && reply.status < 500 && reply.status !== 408 && reply.status !== 429) {
        secrets.forget(target)
        throw refuse(
          `its token server ${secret ? 'refuses our credentials' : 'wants credentials'} (${reply.status})`,
        )
      }
      throw new ShoalError(
        'UPSTREAM_STATUS',
        `the token server of ${target.label} answered ${reply.status}`,
        {
          details: { upstream: url.origin, status: reply.status },
        },
      )
    }
    return parseToken(await readAll(reply.body, MAX_TOKEN_ANSWER, url.origin), url.origin)
  }

  return {
    async current(target, patience) {
      const state = states.get(target.label)
      if (!state) return undefined
      if (state.pending) return patiently(state.pending, patience, target.label)
      if (state.header === undefined || state.until > performance.now()) return state.header
      return patiently(dance(target, state.challenge), patience, target.label)
    },
    async answer(target, challenge, used, patience) {
      if (challenge === undefined) return undefined
      const state = states.get(target.label)
      // Somebody else was faster.
      if (state?.header !== undefined && state.header !== used && state.until > performance.now()) {
        return state.header
      }
      const header = await patiently(dance(target, challenge), patience, target.label)
      return header === used ? undefined : header
    },
    refused(target) {
      const state = states.get(target.label)
      if (state && !state.pending) states.delete(target.label)
      secrets.forget(target)
    },
  }
}

export function basicHeader({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

/** @throws UPSTREAM_STATUS */
function parseToken(answer: Buffer, where: string): { header: string; lifeMs: number } {
  const { token, access_token, expires_in } = parseObject(answer)
  const value = token || access_token
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) {
    throw new ShoalError('UPSTREAM_STATUS', `the token server ${where} sent no token`, {
      details: { upstream: where, status: 200 },
    })
  }
  const seconds = typeof expires_in === 'number' && expires_in > 0 ? expires_in : DEFAULT_LIFE_S
  // Renewed a little early, so that it does not expire on its way.
  return { header: `Bearer ${value}`, lifeMs: seconds * 1000 - Math.min(10_000, seconds * 100) }
}

/** {} for what is no JSON object; the parser's own error would quote the answer, and with it a token. */
function parseObject(text: Buffer): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(text.toString('utf8'))
    return typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

/** Waits for something shared that goes on without us. @throws ABORTED | UPSTREAM_UNREACHABLE */
function patiently<T>(work: Promise<T>, { signal, deadline }: Patience, where: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(aborted(signal))
    const timer = setTimeout(
      () =>
        reject(
          new ShoalError('UPSTREAM_UNREACHABLE', `${where}: its token server did not answer in time`, {
            details: { upstream: where, reason: 'stall' },
          }),
        ),
      Math.max(0, deadline - performance.now()),
    )
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    work.then(resolve, reject).finally(() => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
    })
  })
}
