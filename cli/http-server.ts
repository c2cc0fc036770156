import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { errnoOf, type Log, ShoalError } from '../base/index.ts'
import { formatHostPort, type HostPort } from './address.ts'

export interface Listener {
  /** Where it listens, with the port that the system chose where 0 was asked for. */
  address: HostPort
  server: Server
  /** Accepts no more connections, lets what runs go on for at most `graceMs`, then cuts it. */
  drain(graceMs: number): Promise<void>
}

/** A connection takes some 15 KiB; a node has a few dozen clients. */
const MAX_CONNECTIONS = 512
/** How often it is logged that there are too many. */
const SAY_MS = 60_000

const REASONS: Record<string, string> = {
  EADDRINUSE: 'something else listens there already',
  EACCES: 'this user may not listen there',
  EADDRNOTAVAIL: 'this machine has no such address',
  ENOTFOUND: 'there is no such host',
}

/**
 * Takes so many connections at a time; one more is closed at once, and idle ones with it, so that the client's next attempt finds room.
 * @throws ShoalError CONFIG when it cannot listen there
 */
export async function listenHttp(
  what: string,
  at: HostPort,
  listener: RequestListener,
  /** `requestMs`: longest that a request may take to come in, 0 for no limit. */
  options: { keepAliveMs: number; requestMs: number; maxConnections?: number; log: Log },
): Promise<Listener> {
  const { keepAliveMs: keepAliveTimeout, requestMs: requestTimeout, log } = options
  const server = createServer({ keepAliveTimeout, headersTimeout: 15e3, requestTimeout }, listener)
  server.maxConnections = options.maxConnections ?? MAX_CONNECTIONS
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
  const address = { host: at.host, port }
  let saidAt = Number.NEGATIVE_INFINITY
  server.on('drop', () => {
    server.closeIdleConnections()
    if (performance.now() - saidAt < SAY_MS) return
    saidAt = performance.now()
    log.warn(
      { at: formatHostPort(address), most: server.maxConnections },
      `too many connections to the ${what}`,
    )
  })

  return {
    address,
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
