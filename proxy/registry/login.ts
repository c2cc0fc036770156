import type { IncomingMessage } from 'node:http'
import { ShoalError } from '../../base/index.ts'
import type { Exchange } from './exchange.ts'

/** How clients of other machines say who they are; without it, everybody is taken for one of this machine. */
export interface Login {
  /** The request comes from another machine, or may do so. */
  isRemote(request: IncomingMessage): boolean
  /** The Authorization header has this node's token. */
  isOwner(authorization: string): boolean
}

/** What a client without credentials, or with some for another registry, is given: it may read. */
const ANYBODY = 'anybody'

/**
 * The log-in of clients that send credentials only where `/v2/` wants them: docker, podman, skopeo, crane. `/v2/` sends those of other
 * machines for a bearer token, which everybody gets, so that reading needs no account; the one that is given for this node's token lets push.
 */
export interface Door {
  /** @throws UNAUTHORIZED with the place where a token is given */
  ping(request: IncomingMessage): void
  /** Gives a token. @throws UNAUTHORIZED for a wrong password of who logs in or wants to push */
  login(exchange: Exchange, query: URLSearchParams): void
  /** What upstream may see of a client's Authorization header: nothing of what is for this node. */
  forUpstream(authorization: string | undefined): string | undefined
}

export function createDoor(login: Login | undefined): Door {
  const isOurs = (authorization: string): boolean =>
    authorization === `Bearer ${ANYBODY}` || login?.isOwner(authorization) === true

  return {
    ping(request) {
      const { authorization, host } = request.headers
      if (!login || authorization !== undefined || !login.isRemote(request)) return
      // The address is the one that the client came by, as it alone knows it.
      if (host === undefined || !/^[\w.:[\]-]+$/.test(host)) return
      const scheme = request.headers['x-forwarded-proto'] === 'https' ? 'https' : 'http'
      const challenge = `Bearer realm="${scheme}://${host}/v2/token",service="shoal"`
      throw new ShoalError('UNAUTHORIZED', 'a token is given to everybody; to push, log in', {
        details: { challenge },
      })
    },
    login(exchange, query) {
      const authorization = exchange.request.headers.authorization?.trim()
      const owner = authorization !== undefined && login?.isOwner(authorization) === true
      const scopes = query.getAll('scope').flatMap((scope) => scope.split(' '))
      const reads = scopes.length > 0 && scopes.every((scope) => /:(?:pull)?$/.test(scope))
      // Credentials for a mirrored registry do not keep anybody from reading.
      if (authorization !== undefined && !owner && !reads) {
        const details = { challenge: 'Basic realm="shoal"' }
        throw new ShoalError('UNAUTHORIZED', "the password is not this node's token", { details })
      }
      const token = owner ? tokenOf(authorization) : ANYBODY
      const body = { token, access_token: token, expires_in: 3600, issued_at: new Date().toISOString() }
      const headers = { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }
      exchange.reply(200, headers, Buffer.from(JSON.stringify(body)))
    },
    forUpstream: (authorization) =>
      authorization === undefined || isOurs(authorization) ? undefined : authorization,
  }
}

/** The password of Basic credentials, or a bearer token. */
function tokenOf(authorization: string): string {
  const [scheme = '', value = ''] = authorization.split(/ +/)
  if (!/^basic$/i.test(scheme)) return value
  const text = Buffer.from(value, 'base64').toString('utf8')
  return text.slice(text.indexOf(':') + 1)
}
