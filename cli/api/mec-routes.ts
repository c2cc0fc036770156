import { ShoalError } from '../../base/index.ts'
import type { Mec } from '../../integration/index.ts'
import { mecTokenRequest } from './bodies.ts'
import type { Route } from './routes.ts'

/** What an operator does about devices: their tokens, and what the site offers them. */
export function createMecRoutes(mec: () => Mec | undefined): Route[] {
  const on = (): Mec => {
    const found = mec()
    if (!found) throw new ShoalError('USAGE', 'this daemon has no MEC API: start it with --mec ADDR:PORT')
    return found
  }
  return [
    {
      method: 'get',
      path: '/api/v1/mec/tokens',
      handle: (_req, res) => res.json(mec()?.tokens.list() ?? []),
    },
    {
      method: 'post',
      path: '/api/v1/mec/tokens',
      handle: async (req, res) => {
        const { ue, ...options } = mecTokenRequest(req.body)
        res.status(201).json(await on().tokens.create(ue, options))
      },
    },
    {
      method: 'delete',
      path: '/api/v1/mec/tokens/{id}',
      handle: async (req, res) => {
        const id = String(req.params.id)
        const revoked = await on().tokens.revoke(id)
        if (revoked === 0) {
          throw new ShoalError('NOT_FOUND', `no token and no device with one is called ${id.slice(0, 80)}`)
        }
        res.json({ revoked })
      },
    },
    { method: 'get', path: '/api/v1/mec/apps', handle: (_req, res) => res.json(mec()?.offers.list() ?? []) },
    {
      method: 'post',
      path: '/api/v1/mec/apps',
      handle: async (req, res) => res.status(201).json(await on().offers.add(req.body)),
    },
    {
      method: 'delete',
      path: '/api/v1/mec/apps/{id}',
      handle: async (req, res) => {
        const id = String(req.params.id)
        if (!(await on().offers.remove(id)))
          throw new ShoalError('NOT_FOUND', `no application ${id.slice(0, 80)} is offered`)
        res.status(204).end()
      },
    },
  ]
}
