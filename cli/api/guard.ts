import { createHash, timingSafeEqual } from 'node:crypto'
import { hostname } from 'node:os'
import type { NextFunction, Request, RequestHandler, Response } from 'express'
import { type ErrorCode, ShoalError } from '../../base/index.ts'
import { isLoopback, isLoopbackName } from '../address.ts'
import { problemOf, sendProblem } from './problem.ts'

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS'])
/** Their presence says that the TCP peer speaks for somebody else; their content is never believed. */
const PROXY_HEADERS = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via']

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
 * Lets a request that changes state pass with the bearer token, or without it when it comes from this machine and not
 * out of a browser's page: a foreign page may post to loopback (CSRF), and a name that an attacker's DNS points at
 * 127.0.0.1 makes the page's own host ours (DNS rebinding). Nothing that a header claims ever grants a right.
 */
export function createGuard({ token, names }: GuardOptions): RequestHandler {
  const expected = hash(token)
  const own = new Set([hostname(), ...names].map((name) => name.toLowerCase()))
  const ours = (host: string | undefined): boolean =>
    host !== undefined && (isLoopbackName(host) || own.has(host))

  /** Why the request must not pass; undefined: it may. */
  function objection(req: Request): Refusal | undefined {
    if (SAFE.has(req.method)) return undefined
    const { authorization, host, origin } = req.headers
    const bearer = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
    if (bearer !== undefined && timingSafeEqual(hash(bearer), expected)) return undefined
    if (authorization !== undefined) return ['UNAUTHORIZED', 'the token is not the right one']

    if (!isLoopback(req.socket.remoteAddress ?? '')) {
      return ['UNAUTHORIZED', 'a change from another machine needs the token: Authorization: Bearer TOKEN']
    }
    if (PROXY_HEADERS.some((name) => req.headers[name] !== undefined)) {
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

  return (req: Request, res: Response, next: NextFunction): void => {
    const refusal = objection(req)
    if (!refusal) {
      next()
      return
    }
    if (refusal[0] === 'UNAUTHORIZED') res.set('WWW-Authenticate', 'Bearer realm="shoal"')
    sendProblem(res, problemOf(new ShoalError(...refusal)))
  }
}
