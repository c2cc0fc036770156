import express, { type Express, type NextFunction, type Request, type Response } from 'express'
import { type Digest, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Platform } from '../../integration/index.ts'
import type { Manager } from '../../manager/index.ts'
import { createCheckpointJobs } from './checkpoint-jobs.ts'
import { createEvents } from './events.ts'
import { createGuard } from './guard.ts'
import type { LagMeter } from './lag.ts'
import type { Metrics } from './metrics.ts'
import { problemOf, sendProblem } from './problem.ts'
import { createPulls } from './pulls.ts'
import { createRoutes, type Route } from './routes.ts'
import { createScrubs } from './scrubs.ts'
import { createStorings, type StoreImage } from './storings.ts'
import type {
  ImageInfo,
  ImagePins,
  LocalRepositoryInfo,
  Problem,
  PullImage,
  ReadyCheck,
  UpstreamHealth,
} from './types.ts'

export interface ApiDeps {
  manager: Manager
  store: BlockStore
  /** Images whose manifest is here. */
  images: () => Promise<ImageInfo[]>
  /** The repositories of `local/`, or one of them. */
  local: (name?: string) => Promise<LocalRepositoryInfo[]>
  pull: PullImage
  pins: ImagePins
  /** Fetches again what a blob lacks; failures are its own affair. */
  repair: (digest: Digest) => void
  storeImage: StoreImage
  /** The name that an image is stored under. @throws NAME_INVALID | DIGEST_INVALID */
  storedName: (reference: string) => string
  platform: Platform
  metrics: Metrics
  lag: LagMeter
  readiness: () => ReadyCheck[]
  upstreams?: () => UpstreamHealth[]
  config: {
    token: string
    version: string
    /** Where the registry listens, HOST:PORT. */
    registry: string
    /** Host names of this node that a local client may use, besides loopback's. */
    names: string[]
    /** Milliseconds between scrubs; 0: only when asked for. */
    scrubEveryMs: number
  }
  log: Log
  /** For tests: how the event stream is bounded. */
  events?: { everyMs?: number; heartbeatMs?: number; maxUnread?: number; maxReaders?: number }
}

export interface Api {
  /** The handler of requests. */
  app: Express
  /** `METHOD /path/{id}` of everything that is served. */
  routes: string[]
  /** Ends the event streams and the scrub, and cancels pulls and storings; they go on after a restart. */
  close(): Promise<void>
}

/** A failure as a problem. Express and body-parser mark what the client did wrong with a status of 4xx. */
function problemOfFailure(error: unknown): Problem {
  const given = (error as { status?: unknown }).status
  const status = typeof given === 'number' && given >= 400 && given < 500 ? given : undefined
  if (isShoalError(error) || status === undefined) return problemOf(error, status)
  const detail = status === 413 ? 'the body is too large' : 'the request is malformed'
  return problemOf(new ShoalError('USAGE', detail), status)
}

/** Puts a route's failure into the API's form. */
function failed(error: unknown, res: Response, log: Log): void {
  const problem = problemOfFailure(error)
  if (problem.status === 500) log.error({ err: error, path: res.req.path }, 'a request to the API broke')
  if (res.headersSent) {
    res.destroy()
    return
  }
  if (problem.status === 429 || problem.status === 503) res.set('Retry-After', '1')
  sendProblem(res, problem)
}

/** The management API. It knows nothing of where it listens. */
export function createApi(deps: ApiDeps): Api {
  const { config, log, manager } = deps
  const pulls = createPulls({ pull: deps.pull, wanted: deps.store.records('pulls'), log })
  pulls
    .resume()
    .catch((error) => log.warn({ err: error }, 'pulls of the last run could not be taken up again'))
  const scrubs = createScrubs({
    store: deps.store,
    last: deps.store.records('scrub'),
    everyMs: config.scrubEveryMs,
    repair: deps.repair,
    log,
  })
  const storings = createStorings({
    storeImage: deps.storeImage,
    wanted: deps.store.records('storings'),
    log,
  })
  storings
    .resume()
    .catch((error) => log.warn({ err: error }, 'storings of the last run could not be taken up again'))
  const checkpoints = createCheckpointJobs({ platform: deps.platform, log })
  const events = createEvents({
    manager,
    pulls,
    scrubs,
    storings,
    checkpoints,
    platform: deps.platform,
    log,
    ...deps.events,
  })
  const routes = createRoutes({
    ...deps,
    pulls,
    scrubs,
    storings,
    checkpoints,
    events,
    startedAt: Date.now(),
  })

  const app = express()
  app.disable('x-powered-by')
  // Never: a header must not say who a client is.
  app.set('trust proxy', false)
  app.set('etag', false)
  app.set('query parser', 'simple')
  app.use((_req, res, next) => {
    res.set({ 'X-Content-Type-Options': 'nosniff', 'Cache-Control': 'no-store' })
    next()
  })
  app.use(createGuard({ token: config.token, names: config.names }))
  app.use((req, _res, next) => {
    const length = req.headers['content-length']
    const bodied = req.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
    if (bodied && !req.is('application/json')) {
      throw Object.assign(new Error('not JSON'), { status: 415 })
    }
    next()
  })
  app.use(express.json({ limit: '16kb' }))

  const byPath = new Map<string, Route[]>()
  for (const route of routes) byPath.set(route.path, [...(byPath.get(route.path) ?? []), route])
  for (const [path, group] of byPath) {
    const allowed = group.flatMap(({ method }) =>
      method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()],
    )
    app.all(path.replaceAll(/\{(\w+)\}/g, ':$1'), async (req: Request, res: Response) => {
      const wanted = req.method === 'HEAD' ? 'get' : req.method.toLowerCase()
      const route = group.find(({ method }) => method === wanted)
      if (route) return await route.handle(req, res)
      res.set('Allow', allowed.join(', '))
      sendProblem(res, problemOf(new ShoalError('USAGE', `${req.method} is not possible here`), 405))
    })
  }
  app.use((req: Request, res: Response) => {
    sendProblem(res, problemOf(new ShoalError('NOT_FOUND', `there is nothing at ${req.path.slice(0, 200)}`)))
  })
  app.use((error: unknown, _req: Request, res: Response, _next: NextFunction) => failed(error, res, log))

  return {
    app,
    routes: routes.map(({ method, path }) => `${method.toUpperCase()} ${path}`),
    close: async () => {
      events.close()
      await Promise.all([pulls.close(), scrubs.close(), storings.close(), checkpoints.close()])
    },
  }
}
