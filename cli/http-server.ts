import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { errnoOf, ShoalError } from '../base/index.ts'
import { formatHostPort, type HostPort } from './address.ts'

export interface Listener {
  /** Where it listens, with the port that the system chose where 0 was asked for. */
  address: HostPort
  server: Server
  /** Accepts no more connections, lets what runs go on for at most `graceMs`, then cuts it. */
  drain(graceMs: number): Promise<void>
}

const REASONS: Record<string, string> = {
  EADDRINUSE: 'something else listens there already',
  EACCES: 'this user may not listen there',
  EADDRNOTAVAIL: 'this machine has no such address',
  ENOTFOUND: 'there is no such host',
}

/** @throws ShoalError CONFIG when it cannot listen there */
export async function listenHttp(
  what: string,
  at: HostPort,
  listener: RequestListener,
  /** `requestMs`: longest that a request may take to come in, 0 for no limit. */
  options: { keepAliveMs: number; requestMs: number },
): Promise<Listener> {
  const { keepAliveMs: keepAliveTimeout, requestMs: requestTimeout } = options
  const server = createServer({ keepAliveTimeout, headersTimeout: 15e3, requestTimeout }, listener)
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const errno = errnoOf(cause) ?? ''
      const reason = REASONS[errno] ?? errno
      reject(
        new ShoalError('CONFIG', `the ${what} cannot listen on ${formatHostPort(at)}: ${reason}`, { cause }),
      )
    })
    server.listen(at.port, at.host, resolve)
  })
  const { port } = server.address() as AddressInfo

  return {
    address: { host: at.host, port },
    server,
    drain: async (graceMs) => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      // close() ends what is idle now; a connection whose last answer is sent later is idle only then.
      const sweep = setInterval(() => server.closeIdleConnections(), 25)
      const cut = setTimeout(() => server.closeAllConnections(), graceMs)
      await closed
      clearInterval(sweep)
      clearTimeout(cut)
    },
  }
}
