import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { hostname } from 'node:os'
import type { NextFunction, Request, RequestHandler, Response } from 'express'
import { type ErrorCode, ShoalError } from '../../base/index.ts'
import { isLoopback, isLoopbackName } from '../address.ts'
import { problemOf, sendProblem } from './problem.ts'

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS'])
/** Their presence says that the TCP peer speaks for somebody else; their content is never believed. */
const PROXY_HEADERS = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via']

const isProxied = (req: IncomingMessage): boolean =>
  PROXY_HEADERS.some((name) => req.headers[name] !== undefined)

function hash(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

/** The host of `HOST:PORT` or of an origin's `scheme://HOST:PORT`, in lower case; undefined where there is none. */
function hostOf(text: string | undefined): string | undefined {
  if (text === undefined || text === '') return undefined
  const url = text.includes('://') ? text : `http://${text}`
  return URL.canParse(url) ? new URL(url).hostname.toLowerCase() : undefined
}

type Refusal = [code: ErrorCode, detail: string]

export interface GuardOptions {
  token: string
  /** Names under which this node is known, besides loopback's. */
  names: string[]
}

/**
 * Why a request without the token must not change anything; undefined: it may, as it comes from this machine and not out of
 * a browser's page. A foreign page may post to loopback (CSRF), and a name that an attacker's DNS points at 127.0.0.1 makes
 * the page's own host ours (DNS rebinding). Nothing that a header claims ever grants a right.
 */
function createObjection(names: string[]): (req: IncomingMessage) => Refusal | undefined {
  const own = new Set([hostname(), ...names].map((name) => name.toLowerCase()))
  const ours = (host: string | undefined): boolean =>
    host !== undefined && (isLoopbackName(host) || own.has(host))

  return (req) => {
    const { host, origin } = req.headers
    if (!isLoopback(req.socket.remoteAddress ?? '')) {
      return ['UNAUTHORIZED', 'a change from another machine needs the token: Authorization: Bearer TOKEN']
    }
    if (isProxied(req)) {
      return ['UNAUTHORIZED', 'a change that comes through a proxy needs the token']
    }
    if (!ours(hostOf(host))) return ['DENIED', 'the Host header names neither this machine nor loopback']
    if (origin !== undefined && origin.toLowerCase() !== `http://${host ?? ''}`.toLowerCase()) {
      return ['DENIED', 'the request comes out of a page of another origin']
    }
    const site = req.headers['sec-fetch-site']
    if (site !== undefined && site !== 'same-origin' && site !== 'none') {
      return ['DENIED', 'the request comes out of a page of another site']
    }
    return undefined
  }
}

function createTokenCheck(token: string): (presented: string | undefined) => boolean {
  const expected = hash(token)
  return (presented) => presented !== undefined && timingSafeEqual(hash(presented), expected)
}

function bearerOf({ headers }: IncomingMessage): string | undefined {
  return /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1]
}

/** The password of Basic credentials: registry clients log in with a name and a password. */
function passwordOf({ headers }: IncomingMessage): string | undefined {
  const encoded = /^Basic +(\S+)$/i.exec(headers.authorization ?? '')?.[1]
  const text = encoded === undefined ? '' : Buffer.from(encoded, 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon < 0 ? undefined : text.slice(colon + 1)
}

/** How registry clients of other machines are told from this one's, and who has the token. */
export function createLogin({ token }: Pick<GuardOptions, 'token'>) {
  const isToken = createTokenCheck(token)
  return {
    isRemote: (req: IncomingMessage): boolean =>
      !isLoopback(req.socket.remoteAddress ?? '') || isProxied(req),
    isOwner: (authorization: string): boolean => {
      const req = { headers: { authorization } } as IncomingMessage
      return isToken(bearerOf(req)) || isToken(passwordOf(req))
    },
  }
}

/** Lets a request that changes state pass with the token, or without one where nothing speaks against it. */
export function createGuard({ token, names }: GuardOptions): RequestHandler {
  const isToken = createTokenCheck(token)
  const objection = createObjection(names)

  function refusalOf(req: Request): Refusal | undefined {
    if (SAFE.has(req.method) || isToken(bearerOf(req))) return undefined
    if (req.headers.authorization === undefined) return objection(req)
    return ['UNAUTHORIZED', 'the token is not the right one']
  }

  return (req: Request, res: Response, next: NextFunction): void => {
    const refusal = refusalOf(req)
    if (!refusal) {
      next()
      return
    }
    if (refusal[0] === 'UNAUTHORIZED') res.set('WWW-Authenticate', 'Bearer realm="shoal"')
    sendProblem(res, problemOf(new ShoalError(...refusal)))
  }
}

/**
 * The same for the registry: throws UNAUTHORIZED or DENIED for a client that may not push. The token may be a Basic credential's
 * password. A client on this machine may have credentials for something else: they count as none.
 */
export function createPushGuard({ token, names }: GuardOptions): (req: IncomingMessage) => void {
  const isToken = createTokenCheck(token)
  const objection = createObjection(names)
  return (req) => {
    if (isToken(bearerOf(req)) || isToken(passwordOf(req))) return
    const refusal = objection(req)
    if (refusal) throw new ShoalError(...refusal, { details: { challenge: 'Basic realm="shoal"' } })
  }
}

/** For the registry's reads that are not for everybody on this machine: throws UNAUTHORIZED for a client without the token. */
export function createTokenGuard(token: string): (req: IncomingMessage) => void {
  const isToken = createTokenCheck(token)
  return (req) => {
    if (isToken(bearerOf(req)) || isToken(passwordOf(req))) return
    throw new ShoalError(
      'UNAUTHORIZED',
      "this needs the node's API token, as the password or as a Bearer token",
      {
        details: { challenge: 'Basic realm="shoal"' },
      },
    )
  }
}
