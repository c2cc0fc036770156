import type { Request } from 'express'
import { ShoalError } from '../../base/index.ts'
import type { Storing } from '../../manager/index.ts'
import { gone, repairRequest, storeRequest } from './bodies.ts'
import type { Route } from './routes.ts'
import type { Storings } from './storings.ts'
import { isImage, storedView } from './views.ts'

/** The requests about stored images. */
export function createStoredRoutes({
  storing,
  storings,
  storedName,
}: {
  storing: Storing
  storings: Storings
  /** @throws NAME_INVALID | DIGEST_INVALID */
  storedName: (reference: string) => string
}): Route[] {
  const parameter = (req: Request, name: string): string => String(req.params[name])
  const none = (id: string): ShoalError => new ShoalError('NOT_FOUND', `no storing ${id.slice(0, 80)}`)

  return [
    {
      method: 'get',
      path: '/api/v1/stored',
      handle: async (_req, res) => res.json((await storing.list()).filter(isImage).map(storedView)),
    },
    {
      method: 'post',
      path: '/api/v1/stored',
      handle: (req, res) => {
        const request = storeRequest(req.body)
        storedName(request.reference)
        const status = storings.start(request)
        res.status(202).location(`/api/v1/storings/${status.id}`).json(status)
      },
    },
    {
      method: 'delete',
      path: '/api/v1/stored/{name}',
      handle: async (req, res) => {
        const name = storedName(parameter(req, 'name'))
        if (!(await storing.forget(name))) throw new ShoalError('NOT_FOUND', `${name} is not stored`)
        res.status(204).end()
      },
    },
    { method: 'get', path: '/api/v1/storings', handle: (_req, res) => res.json(storings.list()) },
    {
      method: 'get',
      path: '/api/v1/storings/{id}',
      handle: (req, res) => {
        const id = parameter(req, 'id')
        const status = storings.get(id)
        if (!status) throw none(id)
        res.json(status)
      },
    },
    {
      method: 'delete',
      path: '/api/v1/storings/{id}',
      handle: (req, res) => {
        const id = parameter(req, 'id')
        if (!storings.cancel(id)) throw none(id)
        res.status(204).end()
      },
    },
    {
      method: 'post',
      path: '/api/v1/repair',
      handle: async (req, res) => {
        const { now } = repairRequest(req.body)
        res.json(await storing.repair({ now, signal: gone(res) }))
      },
    },
  ]
}
