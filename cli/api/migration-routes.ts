import { ShoalError } from '../../base/index.ts'
import type { Platform } from '../../integration/index.ts'
import { gone } from './bodies.ts'
import { decision, migrationRequest } from './migration-bodies.ts'
import type { Route } from './routes.ts'

/** The requests about migrations. */
export function createMigrationRoutes(platform: Platform): Route[] {
  let draining = false
  return [
    {
      method: 'get',
      path: '/api/v1/migrations',
      handle: async (_req, res) => res.json((await platform.migrations()).list()),
    },
    {
      method: 'post',
      path: '/api/v1/migrations',
      handle: async (req, res) => {
        const { runtime, ...wanted } = migrationRequest(req.body)
        const container = await platform.runtimes.find(wanted.container, {
          ...(runtime === undefined ? {} : { runtime }),
          signal: gone(res),
        })
        const migrations = await platform.migrations()
        const started = await migrations.start({
          ...wanted,
          container: container.id,
          runtime: container.runtime,
        })
        res.status(202).location(`/api/v1/migrations/${started.id}`).json(started)
      },
    },
    {
      method: 'get',
      path: '/api/v1/migrations/{id}',
      handle: async (req, res) => {
        const id = String(req.params.id)
        const migration = (await platform.migrations()).get(id)
        if (!migration) throw new ShoalError('NOT_FOUND', `no migration ${id.slice(0, 80)}`)
        res.json(migration)
      },
    },
    {
      method: 'post',
      path: '/api/v1/migrations/{id}/cancel',
      handle: async (req, res) => {
        res.json(await (await platform.migrations()).cancel(String(req.params.id)))
      },
    },
    {
      method: 'post',
      path: '/api/v1/migrations/{id}/decide',
      handle: async (req, res) => {
        const side = decision(req.body)
        res.json(await (await platform.migrations()).decide(String(req.params.id), side))
      },
    },
    {
      method: 'post',
      path: '/api/v1/drain',
      handle: async (_req, res) => {
        if (draining) throw new ShoalError('BUSY', 'this node is being drained already')
        draining = true
        try {
          res.json(await (await platform.migrations()).drain({ signal: gone(res) }))
        } finally {
          draining = false
        }
      },
    },
  ]
}
