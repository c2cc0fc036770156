import type { Request, Response } from 'express'
import { ShoalError } from '../../base/index.ts'
import type { ApiDeps } from './app.ts'
import { gcRequest, gone, imageName, pinRequest, pullRequest, scrubRequest } from './bodies.ts'
import type { CheckpointJobs } from './checkpoint-jobs.ts'
import { EVENT_TYPES, type Events, type EventType } from './events.ts'
import { createPlatformRoutes } from './platform-routes.ts'
import type { Pulls } from './pulls.ts'
import type { Scrubs } from './scrubs.ts'
import { createStoredRoutes } from './stored-routes.ts'
import type { Storings } from './storings.ts'
import { imageView, imageViews, isImage, membersByState, peerView, taskView } from './views.ts'

export interface Route {
  method: 'get' | 'post' | 'delete'
  /** With `{name}` for a parameter, as in OpenAPI. */
  path: string
  handle: (req: Request, res: Response) => unknown
}

async function statusView(deps: RouteDeps): Promise<Record<string, unknown>> {
  const { manager, store, config, lag } = deps
  const { id, name, site, addrs } = manager.self
  const { bytes, blocks, borrowed, quota } = store.usage()
  let kept = 0
  for await (const { bytesKept } of store.blobs()) kept += bytesKept
  return {
    id,
    name,
    site,
    addrs,
    registry: config.registry,
    version: config.version,
    startedAt: deps.startedAt,
    uptimeMs: Date.now() - deps.startedAt,
    ready: deps.readiness(),
    store: { bytes, blocks, borrowed, kept, ...(quota === undefined ? {} : { quota }) },
    totals: manager.totals(),
    tasks: manager
      .tasks()
      .filter(({ state }) => state === 'running')
      .map((task) => taskView(task, manager)),
    members: membersByState(manager.members.list()),
    upstreams: deps.upstreams?.() ?? [],
    eventLoopLagMs: lag.read(),
    rssBytes: process.memoryUsage.rss(),
  }
}

function eventTypes(given: unknown): ReadonlySet<EventType> {
  if (given === undefined) return new Set(EVENT_TYPES)
  const wanted = String(given).split(',')
  const fit = EVENT_TYPES.filter((type) => wanted.includes(type))
  if (fit.length !== wanted.length) {
    throw new ShoalError('USAGE', `types must be of ${EVENT_TYPES.join(', ')}`)
  }
  return new Set(fit)
}

export type RouteDeps = ApiDeps & {
  pulls: Pulls
  scrubs: Scrubs
  storings: Storings
  checkpoints: CheckpointJobs
  events: Events
  startedAt: number
}

/** Everything that is served, as data, so that the OpenAPI document can be held against it. */
export function createRoutes(deps: RouteDeps): Route[] {
  const { manager, store, pulls, scrubs, storings, storedName } = deps
  const parameter = (req: Request, name: string): string => String(req.params[name])
  const noPull = (id: string): ShoalError => new ShoalError('NOT_FOUND', `no pull ${id.slice(0, 80)}`)

  return [
    { method: 'get', path: '/api/v1/status', handle: async (_req, res) => res.json(await statusView(deps)) },
    { method: 'get', path: '/api/v1/peers', handle: (_req, res) => res.json(manager.peers().map(peerView)) },
    {
      method: 'get',
      path: '/api/v1/tasks',
      handle: (_req, res) => res.json(manager.tasks().map((task) => taskView(task, manager))),
    },
    {
      method: 'get',
      path: '/api/v1/images',
      handle: async (_req, res) =>
        res.json(imageViews(await deps.images(), (await manager.storing.list()).filter(isImage))),
    },
    {
      method: 'post',
      path: '/api/v1/images',
      handle: (req, res) => {
        const status = pulls.start(pullRequest(req.body))
        res.status(202).location(`/api/v1/pulls/${status.id}`).json(status)
      },
    },
    {
      method: 'get',
      path: '/api/v1/local',
      handle: async (req, res) => {
        const { repository } = req.query
        const found = await deps.local(repository === undefined ? undefined : String(repository))
        if (repository !== undefined && found.length === 0) {
          throw new ShoalError('NOT_FOUND', `nothing was pushed to ${String(repository).slice(0, 255)}`)
        }
        res.json(found)
      },
    },
    { method: 'get', path: '/api/v1/pulls', handle: (_req, res) => res.json(pulls.list()) },
    {
      method: 'get',
      path: '/api/v1/pulls/{id}',
      handle: (req, res) => {
        const id = parameter(req, 'id')
        const status = pulls.get(id)
        if (!status) throw noPull(id)
        res.json(status)
      },
    },
    {
      method: 'delete',
      path: '/api/v1/pulls/{id}',
      handle: (req, res) => {
        const id = parameter(req, 'id')
        if (!pulls.cancel(id)) throw noPull(id)
        res.status(204).end()
      },
    },
    ...createStoredRoutes({ storing: manager.storing, storings, storedName }),
    ...createPlatformRoutes(deps.platform, deps.checkpoints),
    {
      method: 'post',
      path: '/api/v1/gc',
      handle: async (req, res) => res.json(await store.collect(gone(res), gcRequest(req.body))),
    },
    { method: 'get', path: '/api/v1/scrub', handle: (_req, res) => res.json(scrubs.status()) },
    {
      method: 'post',
      path: '/api/v1/scrub',
      handle: (req, res) => {
        const status = scrubs.start(scrubRequest(req.body))
        res.status(202).location('/api/v1/scrub').json(status)
      },
    },
    {
      method: 'delete',
      path: '/api/v1/scrub',
      handle: (_req, res) => {
        if (!scrubs.cancel()) throw new ShoalError('NOT_FOUND', 'no scrub goes on')
        res.status(204).end()
      },
    },
    {
      method: 'post',
      path: '/api/v1/pins',
      handle: async (req, res) => {
        const image = await deps.pins.pin(pinRequest(req.body))
        res.json(imageView(image, await manager.storing.list()))
      },
    },
    {
      method: 'delete',
      path: '/api/v1/pins',
      handle: async (req, res) => {
        const name = imageName(req.query.reference)
        if (!(await deps.pins.unpin(name))) throw new ShoalError('NOT_FOUND', `${name} is not pinned`)
        res.status(204).end()
      },
    },
    {
      method: 'get',
      path: '/api/v1/events',
      handle: (req, res) => {
        const types = eventTypes(req.query.types)
        if (req.method === 'HEAD') return res.type('text/event-stream').end()
        deps.events.attach(res, types)
      },
    },
    {
      method: 'get',
      path: '/openapi.json',
      // Loaded when somebody asks: a daemon has no use for its own description.
      handle: async (_req, res) => {
        const { openApiDocument } = await import('./openapi.ts')
        res.json(openApiDocument(deps.config.version))
      },
    },
    {
      method: 'get',
      path: '/metrics',
      handle: async (_req, res) => {
        const { type, text } = await deps.metrics.render()
        res.type(type).send(text)
      },
    },
    { method: 'get', path: '/healthz', handle: (_req, res) => res.json({ status: 'alive' }) },
    {
      method: 'get',
      path: '/readyz',
      handle: (_req, res) => {
        const checks = deps.readiness()
        const ready = checks.every(({ ok }) => ok)
        res.status(ready ? 200 : 503).json({ ready, checks })
      },
    },
  ]
}
