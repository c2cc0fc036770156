import type { IncomingMessage, ServerResponse } from 'node:http'
import { type Log, ShoalError } from '../../base/index.ts'
import type { Sources } from '../../manager/types.ts'
import { type Failure, failureOf, type Subject } from './failure.ts'
import { reasonOf, throwIfGone, until } from './share.ts'

/** One request with its answer: when it is given up, what it came to, and where its bytes are from. */
export interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly head: boolean
  /** Aborted when the client goes away, or when its patience ends before there are headers. */
  readonly signal: AbortSignal
  /** For the log line. */
  facts: {
    repository?: string
    reference?: string
    sources?: () => Sources
    /** Seconds since a stale answer was last confirmed. */
    stale?: number
    bytes: number
  }
  /** What to do instead of giving up when the client's patience ends; it has to begin the answer. */
  whenLate: (() => void) | undefined
  /** Sends the headers. From here on patience no longer counts. @throws where the request was given up */
  begin(status: number, headers: Record<string, string | number>): void
  /** Sends a whole answer. */
  reply(status: number, headers: Record<string, string | number>, body: Uint8Array): void
}

/** Where the bytes come from, as `X-Shoal-Source` says it: from the farthest place that any of them came from. */
export function sourceOf(sources: Sources): 'local' | 'peers' | 'upstream' {
  if (sources.upstream > 0) return 'upstream'
  return sources.peers > 0 ? 'peers' : 'local'
}

/** Runs `work` for a request, turns what it throws into an answer, and writes the log line. Never rejects. */
export async function runExchange(
  request: IncomingMessage,
  response: ServerResponse,
  options: { patienceMs: number; log: Log; subject: () => Subject },
  work: (exchange: Exchange) => Promise<void>,
): Promise<void> {
  const { patienceMs, log, subject } = options
  const startedAt = performance.now()
  const stop = new AbortController()
  const patience = setTimeout(() => {
    if (exchange.whenLate) return exchange.whenLate()
    stop.abort(new ShoalError('TIMEOUT', `nothing could be had within ${patienceMs} ms`))
  }, patienceMs)
  const onClose = (): void => {
    if (!response.writableFinished) stop.abort(new ShoalError('ABORTED', 'the client went away'))
  }
  response.on('close', onClose)
  // A broken connection is told by `close`; without a listener its error would end the process.
  response.on('error', () => {})
  const head = request.method === 'HEAD'
  const exchange: Exchange = {
    request,
    response,
    head,
    signal: stop.signal,
    facts: { bytes: 0 },
    whenLate: undefined,
    begin(status, headers) {
      throwIfGone(stop.signal)
      clearTimeout(patience)
      exchange.whenLate = undefined
      response.writeHead(status, headers)
    },
    reply(status, headers, body) {
      exchange.begin(status, { 'Content-Length': body.length, ...headers })
      exchange.facts.bytes = head ? 0 : body.length
      response.end(head ? undefined : body)
    },
  }
  let failure: { error: unknown; answer: Failure } | undefined
  try {
    await until(work(exchange), stop.signal)
  } catch (caught) {
    const error = stop.signal.aborted ? reasonOf(stop.signal) : caught
    failure = { error, answer: failureOf(error, subject()) }
    // What is under way for this request alone ends now.
    stop.abort(error)
    if (response.headersSent) response.destroy()
    else if (request.complete || request.destroyed || !hasBody(request))
      sendFailure(response, head, failure.answer)
    else await sendEarly(request, response, failure.answer)
  } finally {
    clearTimeout(patience)
    response.off('close', onClose)
    report(log, exchange, failure, performance.now() - startedAt)
  }
}

/** So long a client that is still sending may go on after its request has failed. */
const LINGER_MS = 1000

/** True for a request that comes with a body, however long. */
export function hasBody({ headers }: IncomingMessage): boolean {
  const length = headers['content-length']
  return headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
}

/**
 * A failure told while the client is still sending. A connection that is closed over unread bytes is reset, and the client never
 * reads why: so the answer goes out whole, some of the rest is taken and thrown away, and then the connection ends.
 */
async function sendEarly(
  request: IncomingMessage,
  response: ServerResponse,
  failure: Failure,
): Promise<void> {
  const { status, code, message, headers } = failure
  const body = Buffer.from(JSON.stringify({ errors: [{ code, message }] }))
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': body.length,
    Connection: 'close',
    ...headers,
  })
  response.write(body)
  request.on('error', () => {})
  request.resume()
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, LINGER_MS)
    request.once('close', () => resolve(clearTimeout(timer)))
    request.once('end', () => resolve(clearTimeout(timer)))
  })
  response.end()
}

/** An error body as the distribution spec has it. */
export function sendFailure(response: ServerResponse, head: boolean, failure: Failure): void {
  const { status, code, message, headers } = failure
  const body = Buffer.from(JSON.stringify({ errors: [{ code, message }] }))
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': body.length,
    ...headers,
  })
  response.end(head ? undefined : body)
}

function report(
  log: Log,
  exchange: Exchange,
  failure: { error: unknown; answer: Failure } | undefined,
  ms: number,
): void {
  const { request, response, facts } = exchange
  const { sources, ...rest } = facts
  const line = {
    method: request.method,
    // As web servers log it when the client did not wait.
    status: response.headersSent ? response.statusCode : 499,
    ...rest,
    ...(sources?.() ?? {}),
    ms: Math.round(ms),
  }
  if (!failure) {
    // Runtimes and probes ask for `/v2/` all the time.
    if (facts.repository === undefined) log.debug(line, 'served')
    else log.info(line, 'served')
    return
  }
  const { error, answer } = failure
  const message = error instanceof Error ? error.message : String(error)
  const code = error instanceof ShoalError ? error.code : undefined
  const fields = { ...line, code, error: message }
  if (code === 'ABORTED') log.info(fields, 'given up')
  else if (response.statusCode < 400) log.error(fields, 'broken off: the client got a part only')
  else if (answer.status < 500) log.info(fields, 'refused')
  else log.warn(fields, 'failed')
}
