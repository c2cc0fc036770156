import type { Request } from 'express'
import { ShoalError } from '../../base/index.ts'
import { type Checkpoint, demandsOf, type Platform } from '../../integration/index.ts'
import { gone } from './bodies.ts'
import { createRequest, restoreRequest, scheduleRequest } from './checkpoint-bodies.ts'
import type { CheckpointJobs, CreateWanted, RestoreWanted } from './checkpoint-jobs.ts'
import type { Route } from './routes.ts'

/** The requests about checkpoints. */
export function createCheckpointRoutes(platform: Platform, jobs: CheckpointJobs): Route[] {
  const parameter = (req: Request, name: string): string => String(req.params[name])
  const none = (what: string, id: string): ShoalError =>
    new ShoalError('NOT_FOUND', `no ${what} ${id.slice(0, 80)}`)
  const start = (wanted: CreateWanted | RestoreWanted): Route['handle'] => {
    return (_req, res) => {
      const job = jobs.start(wanted)
      res.status(202).location(`/api/v1/checkpoint-jobs/${job.id}`).json(job)
    }
  }

  return [
    {
      method: 'get',
      path: '/api/v1/checkpoints',
      handle: async (_req, res) => res.json((await (await platform.checkpoints()).list()).map(listed)),
    },
    {
      method: 'post',
      path: '/api/v1/checkpoints',
      handle: (req, res) => start(createRequest(req.body))(req, res),
    },
    {
      method: 'get',
      path: '/api/v1/checkpoints/{reference}',
      handle: async (req, res) =>
        res.json(details(await (await platform.checkpoints()).inspect(parameter(req, 'reference')))),
    },
    {
      method: 'delete',
      path: '/api/v1/checkpoints/{reference}',
      handle: async (req, res) => {
        const checkpoints = await platform.checkpoints()
        res.json({ removed: await checkpoints.remove(parameter(req, 'reference'), gone(res)) })
      },
    },
    {
      method: 'post',
      path: '/api/v1/restores',
      handle: (req, res) => start(restoreRequest(req.body))(req, res),
    },
    { method: 'get', path: '/api/v1/checkpoint-jobs', handle: (_req, res) => res.json(jobs.list()) },
    {
      method: 'get',
      path: '/api/v1/checkpoint-jobs/{id}',
      handle: (req, res) => {
        const job = jobs.get(parameter(req, 'id'))
        if (!job) throw none('job', parameter(req, 'id'))
        res.json(job)
      },
    },
    {
      method: 'delete',
      path: '/api/v1/checkpoint-jobs/{id}',
      handle: (req, res) => {
        if (!jobs.cancel(parameter(req, 'id'))) throw none('job', parameter(req, 'id'))
        res.status(204).end()
      },
    },
    {
      method: 'get',
      path: '/api/v1/checkpoint-plans',
      handle: async (_req, res) => res.json((await platform.checkpoints()).schedules()),
    },
    {
      method: 'post',
      path: '/api/v1/checkpoint-plans',
      handle: async (req, res) => {
        const { runtime, ...wanted } = scheduleRequest(req.body)
        const signal = gone(res)
        const found = await platform.runtimes.find(wanted.container, {
          ...(runtime === undefined ? {} : { runtime }),
          signal,
        })
        const checkpoints = await platform.checkpoints()
        const request = { ...wanted, container: found.id, runtime: found.runtime }
        res.status(201).json(await checkpoints.schedule(request, signal))
      },
    },
    {
      method: 'delete',
      path: '/api/v1/checkpoint-plans/{name}',
      handle: async (req, res) => {
        const name = parameter(req, 'name')
        if (!(await (await platform.checkpoints()).unschedule(name))) throw none('plan', name)
        res.status(204).end()
      },
    },
  ]
}

/** In a list what is only of use for one of them is left out. */
function listed({ recreation: _, needs: __, ...rest }: Checkpoint): Omit<Checkpoint, 'recreation' | 'needs'> {
  return rest
}

/** Whoever reaches the API may read: of the configuration it tells what a machine must have, and no environment variables. */
function details({ recreation, ...rest }: Checkpoint): object {
  return { ...rest, ...(recreation ? { demands: demandsOf(recreation) } : {}) }
}
