import { Agent, type IncomingMessage, request } from 'node:http'
import { errnoOf, ShoalError } from '../base/index.ts'
import { formatHostPort, type HostPort, reachable } from './address.ts'
import { errorOf } from './api/problem.ts'
import type { Problem } from './api/types.ts'
import { createEventParser, type ServerEvent } from './event-parser.ts'

/** Nobody's list of tasks is longer; more is a broken answer. */
const MAX_ANSWER = 64 * 1024 * 1024
const PATIENCE_MS = 30e3

/** The commands' way to their daemon: node:http alone, so that a command starts fast. */
export interface Client {
  /** Where the daemon is looked for, for people. */
  where: string
  /** The JSON of an answer. @throws NO_DAEMON, or what the problem in the answer says */
  get<T>(path: string, options?: ClientOptions): Promise<T>
  send<T>(method: 'POST' | 'DELETE', path: string, body?: unknown, options?: ClientOptions): Promise<T>
  /** Follows an event stream until it ends or the signal fires; `onOpen` is called when it stands. */
  events(
    path: string,
    options: { signal: AbortSignal; onOpen?: () => void; onEvent: (event: ServerEvent) => void },
  ): Promise<void>
  close(): void
}

export interface ClientOptions {
  signal?: AbortSignal
  /** How long (ms) the daemon may say nothing; 0: as long as it likes. */
  patienceMs?: number
}

export function createClient({ api, token }: { api: HostPort; token?: string | undefined }): Client {
  const { host, port } = reachable(api)
  const where = formatHostPort({ host, port })
  const agent = new Agent({ keepAlive: true, maxSockets: 4 })

  function unreachable(cause: unknown): ShoalError {
    const errno = errnoOf(cause)
    if (errno === 'ECONNREFUSED') {
      return new ShoalError('NO_DAEMON', `no daemon at ${where}; start one with: shoal serve`, { cause })
    }
    return new ShoalError('NO_DAEMON', `cannot talk to the daemon at ${where}: ${errno ?? 'unknown error'}`, {
      cause,
    })
  }

  function open(
    method: string,
    path: string,
    { signal, patienceMs = PATIENCE_MS }: ClientOptions,
    body?: string,
  ): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const req = request({
        host,
        port,
        method,
        path,
        agent,
        headers: {
          Accept: 'application/json',
          ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
          ...(body === undefined
            ? {}
            : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }),
        },
        ...(signal ? { signal } : {}),
      })
      req.setTimeout(patienceMs, () => {
        req.destroy(new ShoalError('TIMEOUT', `the daemon at ${where} did not answer in time`))
      })
      req.on('error', (error) => {
        if (signal?.aborted) reject(new ShoalError('ABORTED', 'interrupted', { cause: error }))
        else reject(error instanceof ShoalError ? error : unreachable(error))
      })
      req.on('response', resolve)
      req.end(body)
    })
  }

  async function read(res: IncomingMessage): Promise<string> {
    const chunks: Buffer[] = []
    let length = 0
    try {
      for await (const chunk of res as AsyncIterable<Buffer>) {
        length += chunk.length
        if (length > MAX_ANSWER) throw new ShoalError('PROTOCOL', `the answer of ${where} is too large`)
        chunks.push(chunk)
      }
    } catch (error) {
      throw error instanceof ShoalError ? error : unreachable(error)
    }
    return Buffer.concat(chunks).toString()
  }

  function parse(text: string): unknown {
    try {
      return JSON.parse(text)
    } catch (cause) {
      throw new ShoalError('PROTOCOL', `what answers at ${where} is no Shoal daemon`, { cause })
    }
  }

  async function check(res: IncomingMessage): Promise<void> {
    const status = res.statusCode ?? 0
    if (status >= 200 && status < 300) return
    const problem = parse(await read(res)) as Partial<Problem> | null
    throw errorOf(problem ?? {}, status)
  }

  async function exchange<T>(
    method: string,
    path: string,
    options: ClientOptions,
    body?: unknown,
  ): Promise<T> {
    const res = await open(method, path, options, body === undefined ? undefined : JSON.stringify(body))
    await check(res)
    const text = await read(res)
    return (text === '' ? undefined : parse(text)) as T
  }

  return {
    where,
    get: (path, options = {}) => exchange('GET', path, options),
    send: (method, path, body, options = {}) => exchange(method, path, options, body),
    events: async (path, { signal, onOpen, onEvent }) => {
      // Heartbeats come every 15 s: silence for longer means that nobody is there any more.
      const res = await open('GET', path, { signal, patienceMs: 60e3 })
      await check(res)
      onOpen?.()
      const parser = createEventParser(onEvent)
      res.setEncoding('utf8')
      try {
        for await (const text of res as AsyncIterable<string>) parser(text)
      } catch (error) {
        if (!signal.aborted) throw unreachable(error)
      }
    },
    close: () => agent.destroy(),
  }
}
