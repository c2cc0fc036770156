import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'
import type { Pool } from 'undici'
import { type Log, ShoalError } from '../../base/index.ts'
import { type Body, type BodySink, createBody } from './body.ts'
import { aborted, classify, Failure } from './failure.ts'

/** Connections to one origin (scheme, host and port). */
const CONNECTIONS = 16
/** Idle connections are closed after this, or earlier where the server says so: before usual servers do it. */
const IDLE_MS = 15_000
/** Blob stores behind redirects come and go; the pools of those not used lately are closed. */
const MAX_ORIGINS = 32
/** Shorter patience than this says nothing of the origin's health. */
const SILENCE_MS = 2000
/** A timer fires early by as much as the loop's clock was behind when it was set. */
const EARLY_MS = 50
/** How long an origin in doubt is given to take a connection, and how long the doubt lasts: a lost SYN is sent again after a second. */
const HURRY_MS = 1500
const DOUBT_MS = 10_000
/** Origins in doubt; what neighbours say must not fill the memory. */
const MAX_DOUBTS = 64

export interface TransportRequest {
  url: URL
  method: 'GET' | 'HEAD' | 'POST'
  headers: Record<string, string>
  body?: string
  /** Ends the request at any time, the body included. */
  signal: AbortSignal
  /** On `performance.now()`: when the answer's headers must be here. */
  deadline: number
  /** `HOST/REPOSITORY`, for errors. */
  where: string
}

export interface TransportAnswer {
  status: number
  /** Names in lower case; repeated ones are joined by a comma. */
  headers: Record<string, string>
  body: Body
}

/** Single HTTP requests: no retries, no redirects. */
export interface Transport {
  /** @throws Failure | ABORTED */
  send(request: TransportRequest): Promise<TransportAnswer>
  /** The origin's idle connections may be dead: the next request opens a new one. */
  renew(origin: string): void
  /** For 10 s, a connection to the origin is waited for no longer than 1.5 s. */
  doubt(origin: string): void
  close(): Promise<void>
}

interface Entry {
  pool: Pool
  heardAt: number
  usedAt: number
  /** Resolves when the pool takes the connection of the last answer for free, which is a turn of the loop after its end. */
  settled: Promise<void>
}

export function createTransport(options: {
  ca: string[]
  connectMs: number
  stallMs: number
  log: Log
}): Transport {
  const { connectMs, stallMs, log } = options
  const secureContext = loadAuthorities(options.ca)
  const entries = new Map<string, Entry>()
  const PoolClass = loadPool()
  /** Until when, on `performance.now()`. */
  const doubts = new Map<string, number>()
  /** Requests without a connection. */
  const waiting = new Set<{ origin: string; hurry: () => void }>()
  let closed = false

  const inDoubt = (origin: string): boolean => (doubts.get(origin) ?? 0) > performance.now()

  function doubt(origin: string): void {
    doubts.delete(origin)
    doubts.set(origin, performance.now() + DOUBT_MS)
    const [oldest] = doubts.keys()
    if (doubts.size > MAX_DOUBTS && oldest !== undefined) doubts.delete(oldest)
    for (const request of waiting) if (request.origin === origin) request.hurry()
  }

  function entryOf(origin: string): Entry {
    let entry = entries.get(origin)
    if (!entry) {
      const pool = new PoolClass(origin, {
        connections: CONNECTIONS,
        pipelining: 1,
        allowH2: false,
        keepAliveTimeout: IDLE_MS,
        keepAliveMaxTimeout: 60_000,
        headersTimeout: 0,
        bodyTimeout: 0,
        connect: { timeout: connectMs, ...(secureContext ? { secureContext } : {}) },
      })
      entry = { pool, heardAt: 0, usedAt: 0, settled: Promise.resolve() }
      entries.set(origin, entry)
      if (entries.size > MAX_ORIGINS) closeOldest()
    }
    entry.usedAt = performance.now()
    return entry
  }

  function closeOldest(): void {
    const idle = [...entries].filter(([, { pool }]) => pool.stats.running + pool.stats.queued === 0)
    const [oldest] = idle.sort(([, a], [, b]) => a.usedAt - b.usedAt)
    if (oldest && entries.size > 1) renew(oldest[0])
  }

  function renew(origin: string): void {
    const entry = entries.get(origin)
    if (!entry) return
    entries.delete(origin)
    // Closing is graceful: what streams over it goes on.
    entry.pool
      .close()
      .catch((error: unknown) => log.debug({ err: error, origin }, 'closing connections failed'))
  }

  /** Time is up: says what we were waiting for, and whether that means anything beyond this request. */
  function late(
    entry: Entry,
    { origin, startedAt, sent }: { origin: string; startedAt: number; sent: boolean },
  ): Failure {
    const ms = Math.round(performance.now() - startedAt)
    const enough = sent ? stallMs : inDoubt(origin) ? HURRY_MS : connectMs
    const long = ms + EARLY_MS >= Math.min(SILENCE_MS, enough)
    if (sent) {
      const silent = long && entry.heardAt < startedAt
      return new Failure('stall', `no answer in ${ms} ms`, { passing: true, silent, dead: silent })
    }
    if (entry.pool.stats.connected > 0) {
      return new Failure('busy', `no free connection in ${ms} ms`, {
        passing: false,
        silent: false,
        dead: false,
      })
    }
    return new Failure('connect', `no connection in ${ms} ms`, { passing: false, silent: long, dead: long })
  }

  async function send(request: TransportRequest): Promise<TransportAnswer> {
    const refuseLate = (): void => {
      if (closed) throw new ShoalError('ABORTED', 'the upstream client is closed')
      if (request.signal.aborted) throw aborted(request.signal)
    }
    refuseLate()
    // A question right after an answer would open a second connection: a handshake for nothing.
    await entries.get(request.url.origin)?.settled
    refuseLate()
    return dispatch(entryOf(request.url.origin), request)
  }

  function dispatch(entry: Entry, request: TransportRequest): Promise<TransportAnswer> {
    const { url, signal, where } = request
    return new Promise((resolve, reject) => {
      const startedAt = performance.now()
      let settled = false
      let sent = false
      let abort: ((reason: Error) => void) | undefined
      let sink: BodySink | undefined

      const giveUp = (reason: Error): void => {
        if (settled) return
        settled = true
        waiting.delete(wait)
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        abort?.(reason)
        reject(reason)
      }
      const onAbort = (): void => giveUp(aborted(signal))
      const onLate = (): void => giveUp(late(entry, { origin: url.origin, startedAt, sent }))
      const lateAt = (at: number): NodeJS.Timeout => setTimeout(onLate, Math.max(0, at - performance.now()))
      let timer = lateAt(request.deadline)
      const wait = {
        origin: url.origin,
        hurry(): void {
          clearTimeout(timer)
          timer = lateAt(Math.min(request.deadline, startedAt + HURRY_MS))
        },
      }
      waiting.add(wait)
      if (inDoubt(url.origin)) wait.hurry()
      signal.addEventListener('abort', onAbort, { once: true })

      entry.pool.dispatch(
        {
          path: url.pathname + url.search,
          method: request.method,
          headers: request.headers,
          // Left alone, undici closes the connection after a HEAD: each tag check would cost a handshake.
          reset: false,
          ...(request.body === undefined ? {} : { body: request.body }),
        },
        {
          onRequestStart(controller) {
            // Given up while it waited for a connection.
            if (settled) return controller.abort(new Error('not wanted'))
            abort = (reason) => controller.abort(reason)
            sent = true
            waiting.delete(wait)
            clearTimeout(timer)
            timer = lateAt(Math.min(performance.now() + stallMs, request.deadline))
          },
          onResponseStart(controller, status, rawHeaders) {
            entry.heardAt = performance.now()
            doubts.delete(url.origin)
            if (status < 200 || settled) return
            settled = true
            clearTimeout(timer)
            signal.removeEventListener('abort', onAbort)
            const made = createBody({ flow: controller, stallMs, signal, where })
            sink = made.sink
            const headers = flatten(rawHeaders)
            if (request.method !== 'HEAD') made.body.expected = contentLength(headers)
            resolve({ status, headers, body: made.body })
          },
          onResponseData(_controller, chunk) {
            entry.heardAt = performance.now()
            sink?.push(chunk)
          },
          onResponseEnd() {
            entry.settled = new Promise((done) => setImmediate(() => setImmediate(done)))
            sink?.end()
          },
          onResponseError(_controller, error) {
            if (sink) sink.fail(error)
            else giveUp(classify(error))
          },
        },
      )
    })
  }

  return {
    send,
    renew,
    doubt,
    async close() {
      closed = true
      const pools = [...entries.values()].map(({ pool }) => pool)
      entries.clear()
      const reason = new ShoalError('ABORTED', 'the upstream client is closed')
      await Promise.all(pools.map((pool) => pool.destroy(reason)))
    },
  }
}

/** Only the pool of undici: the whole package costs 13 MiB more resident memory (fetch, caches, web sockets). */
function loadPool(): typeof Pool {
  return createRequire(import.meta.url)('undici/lib/dispatcher/pool.js') as typeof Pool
}

/** Undefined where there are none but the default ones. One context for all connections: each costs a parse of all. */
function loadAuthorities(files: string[]): SecureContext | undefined {
  if (files.length === 0) return undefined
  try {
    return createSecureContext({
      ca: [...getCACertificates('default'), ...files.map((file) => readFileSync(file))],
    })
  } catch (error) {
    throw new ShoalError(
      'CONFIG',
      `the certificate authorities cannot be read: ${(error as Error).message}`,
      {
        cause: error,
        details: { files },
      },
    )
  }
}

function flatten(raw: Record<string, string | string[] | undefined>): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(raw)) {
    if (value !== undefined) headers[name.toLowerCase()] = Array.isArray(value) ? value.join(', ') : value
  }
  return headers
}

/** Undefined where it is missing, or void because of a transfer encoding. */
export function contentLength(headers: Record<string, string>): number | undefined {
  const text = headers['content-length']
  if (headers['transfer-encoding'] !== undefined || text === undefined || !/^\d{1,15}$/.test(text))
    return undefined
  return Number(text)
}
