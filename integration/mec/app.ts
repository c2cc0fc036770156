import express, { type Express, type NextFunction, type Request, type Response } from 'express'
import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import type { AppEvents } from './app-events.ts'
import { bareAddress, isLoopbackAddress } from './callback-target.ts'
import { problemOf } from './problem.ts'
import { type Router, refusal } from './router.ts'
import type { Call, Device, MecTokens, Reply } from './types.ts'

/** An application of many pods with long environments fits in. */
const MAX_BODY = '256kb'
/** Requests of one device at a time: one that never waits for an answer must not take the others' place. */
const MAX_AT_ONCE = 32
const EVENTS = '/mec/v1/apps/{id}/events'
const EVENTS_PATTERN = /^\/mec\/v1\/apps\/([^/]+)\/events$/

const withStatus = (status: number, message: string): ShoalError =>
  new ShoalError('USAGE', message, { details: { status } })

/** The first of several values: a query is read by name, and `?a=1&a=2` is a list of two. */
function queryOf(req: Request): Record<string, string[]> {
  const query: Record<string, string[]> = Object.create(null)
  const text = req.originalUrl.split('?')[1] ?? ''
  for (const [name, value] of new URLSearchParams(text)) query[name] = [...(query[name] ?? []), value]
  return { ...query }
}

function send(res: Response, { status, headers = {}, body }: Reply, base: string): void {
  res.status(status).set(headers)
  if (body === undefined) {
    res.end()
    return
  }
  const problem = headers['Content-Type'] === 'application/problem+json'
  // An absolute URI: ETSI's schemas say `format: uri` of it.
  const text = JSON.stringify(
    problem ? { ...body, instance: `${base}${res.req.originalUrl.slice(0, 512)}` } : body,
  )
  res.type(headers['Content-Type'] ?? 'application/json').send(text)
}

function pathOf(req: Request): string {
  try {
    return decodeURIComponent(req.path)
  } catch {
    throw new ShoalError('USAGE', 'the path is badly escaped')
  }
}

/** What devices talk to, as an express app: who they are, and that what they say has a form; the rest is the router's. */
export function createMecApp({
  tokens,
  router,
  dispatch,
  events,
  self,
  address,
  document,
  log,
}: {
  tokens: MecTokens
  router: Pick<Router, 'allowed'>
  /** To the device's home, wherever that is. */
  dispatch: (device: Device, call: Call, signal: AbortSignal) => Promise<Reply>
  events: AppEvents
  self: PeerId
  /** HOST:PORT of this server, for who does not say how it was reached. */
  address: () => string
  document: () => Promise<unknown>
  log: Log
}): Express {
  const busy = new Map<string, number>()

  function baseOf(req: Request): string {
    const host = req.headers.host
    const fit =
      host !== undefined && /^[A-Za-z0-9.-]{1,253}(:\d{1,5})?$|^\[[0-9a-f:.]+\](:\d{1,5})?$/i.test(host)
    return `${req.protocol}://${fit ? host : address()}`
  }

  function deviceOf(req: Request): Device {
    const given = req.headers.authorization
    if (given === undefined)
      throw new ShoalError('UNAUTHORIZED', 'a token is needed: Authorization: Bearer TOKEN')
    const token = /^Bearer +([\x21-\x7e]{1,256})$/i.exec(given)?.[1]
    if (token === undefined)
      throw new ShoalError('UNAUTHORIZED', 'the Authorization header has no bearer token')
    return tokens.check(token)
  }

  function callOf(req: Request, device: Device): Call {
    const from = bareAddress(req.socket.remoteAddress ?? '')
    return {
      ue: device.ue,
      method: req.method === 'HEAD' ? 'GET' : req.method,
      path: pathOf(req),
      query: queryOf(req),
      body: req.body as unknown,
      base: baseOf(req),
      entry: self,
      address: from,
      local: isLoopbackAddress(from),
    }
  }

  function enter(ue: string): () => void {
    const count = (busy.get(ue) ?? 0) + 1
    if (count > MAX_AT_ONCE) throw withStatus(429, `the device has ${MAX_AT_ONCE} requests under way`)
    busy.set(ue, count)
    return () => {
      const left = (busy.get(ue) ?? 1) - 1
      if (left > 0) busy.set(ue, left)
      else busy.delete(ue)
    }
  }

  const app = express()
  app.disable('x-powered-by')
  app.set('trust proxy', false)
  app.set('etag', false)
  app.set('query parser', 'simple')
  app.use((_req, res, next) => {
    res.set({ 'X-Content-Type-Options': 'nosniff', 'Cache-Control': 'no-store' })
    next()
  })
  app.get('/openapi.json', async (_req, res) => {
    res.json(await document())
  })
  app.use((req, res, next) => {
    res.locals.device = deviceOf(req)
    const path = pathOf(req)
    const isEvents = EVENTS_PATTERN.test(path)
    const allowed = isEvents ? ['GET', 'HEAD'] : router.allowed(path)
    if (!allowed) throw new ShoalError('NOT_FOUND', `there is nothing at ${req.path.slice(0, 200)}`)
    if (!allowed.includes(req.method)) {
      res.set('Allow', allowed.join(', '))
      throw withStatus(405, `${req.method} is not possible here`)
    }
    if (!isEvents && !req.accepts('json')) throw withStatus(406, 'answers are JSON')
    const length = req.headers['content-length']
    const bodied = req.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
    if (bodied && !req.is('application/json'))
      throw withStatus(415, 'the body must be JSON: Content-Type: application/json')
    const leave = enter((res.locals.device as Device).ue)
    res.on('close', leave)
    next()
  })
  app.use(express.json({ limit: MAX_BODY }))
  app.use(async (req: Request, res: Response) => {
    const device = res.locals.device as Device
    const id = EVENTS_PATTERN.exec(pathOf(req))?.[1]
    if (id !== undefined) {
      if (req.method === 'HEAD') return res.type('text/event-stream').end()
      return events.attach(res, device, id)
    }
    const abort = new AbortController()
    res.on('close', () => abort.abort(new ShoalError('ABORTED', 'the device went away')))
    const reply = await dispatch(device, callOf(req, device), abort.signal)
    if (!res.destroyed) send(res, reply, baseOf(req))
  })
  app.use((error: unknown, req: Request, res: Response, _next: NextFunction) => {
    if (res.headersSent || res.destroyed) {
      res.destroy()
      return
    }
    const base = baseOf(req)
    if (isShoalError(error)) {
      const reply = refusal(problemOf(error))
      // Who presents nothing is not told that it is wrong: RFC 6750, 3.1.
      if (reply.status === 401 && req.headers.authorization === undefined) {
        reply.headers = { ...reply.headers, 'WWW-Authenticate': 'Bearer realm="shoal"' }
      }
      return send(res, reply, base)
    }
    // Express and body-parser mark what the client did wrong with a status of 4xx.
    const status = (error as { status?: unknown }).status
    if (typeof status === 'number' && status >= 400 && status < 500) {
      const detail = status === 413 ? `the body is larger than ${MAX_BODY}` : 'the body is no JSON'
      return send(res, refusal(problemOf(withStatus(status, detail))), base)
    }
    log.error({ err: error, path: req.path }, 'a request to the MEC API broke')
    send(res, refusal(problemOf(error)), base)
  })
  return app
}

/** The stream's path, which the router does not have. */
export const EVENTS_ROUTE = `GET ${EVENTS}`
