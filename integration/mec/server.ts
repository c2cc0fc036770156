import { readFile } from 'node:fs/promises'
import { createServer, type RequestListener, type Server, type ServerOptions } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { errnoOf, ShoalError } from '../../base/index.ts'
import { problemOf } from './problem.ts'

export interface MecListen {
  host: string
  port: number
  /** PEM files; both or none. */
  cert?: string
  key?: string
}

export interface MecServer {
  host: string
  port: number
  /** Lets what runs go on for at most `graceMs`. */
  close(graceMs: number): Promise<void>
}

const LIMITS: ServerOptions = {
  headersTimeout: 10e3,
  /** Longest that a request may take to come in. */
  requestTimeout: 20e3,
  keepAliveTimeout: 60e3,
  connectionsCheckingInterval: 2e3,
  maxHeaderSize: 16 * 1024,
}
const MAX_CONNECTIONS = 4096

const STATUS_OF: Record<string, [status: number, text: string]> = {
  HPE_HEADER_OVERFLOW: [431, 'the headers are larger than 16 KiB'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'the request did not come in in time'],
}

/** What is no HTTP never reaches the app: it is answered in the same form. */
function answerGarbage(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const [status, detail] = STATUS_OF[error.code ?? ''] ?? [400, 'the request is no HTTP']
  const body = JSON.stringify(problemOf(new ShoalError('USAGE', detail), status))
  socket.end(
    `HTTP/1.1 ${status} Refused\r\nContent-Type: application/problem+json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  )
}

async function readPem(what: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (cause) {
    throw new ShoalError('CONFIG', `cannot read the ${what} ${file}: ${errnoOf(cause) ?? 'unknown error'}`, {
      cause,
    })
  }
}

async function makeServer({ cert, key }: MecListen, listener: RequestListener): Promise<Server> {
  if (cert === undefined && key === undefined) return createServer(LIMITS, listener)
  if (cert === undefined || key === undefined) {
    throw new ShoalError('CONFIG', "the MEC API's certificate and its key: each needs the other")
  }
  const [certPem, keyPem] = [await readPem('certificate', cert), await readPem('key', key)]
  try {
    return createTlsServer(
      { ...LIMITS, cert: certPem, key: keyPem, minVersion: 'TLSv1.2', handshakeTimeout: 10e3 },
      listener,
    )
  } catch (cause) {
    throw new ShoalError('CONFIG', `${cert} and ${key} are no certificate and its key`, { cause })
  }
}

/** @throws CONFIG when it cannot listen there, or the certificate is none */
export async function listenMec(at: MecListen, listener: RequestListener): Promise<MecServer> {
  const server = await makeServer(at, listener)
  server.maxConnections = MAX_CONNECTIONS
  server.on('clientError', answerGarbage)
  // A handshake that fails is the client's affair.
  server.on('tlsClientError', () => {})
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const why = errnoOf(cause) ?? 'unknown error'
      reject(
        new ShoalError('CONFIG', `the MEC API cannot listen on ${at.host}:${at.port}: ${why}`, { cause }),
      )
    })
    server.listen(at.port, at.host, resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    host: at.host,
    port,
    async close(graceMs) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      const sweep = setInterval(() => server.closeIdleConnections(), 25)
      const cut = setTimeout(() => server.closeAllConnections(), graceMs)
      await closed
      clearInterval(sweep)
      clearTimeout(cut)
    },
  }
}
