import { ShoalError } from '../../base/index.ts'
import type { Membership } from '../../manager/index.ts'
import type { Offload } from '../offload/types.ts'
import { appView, parseApp } from './app-body.ts'
import type { Contexts } from './contexts.ts'
import { malformed, readBody } from './fields.ts'
import type { Call, MecRoute } from './types.ts'
import type { Whereabouts } from './whereabouts.ts'

const MAX_APPS = 256

function noApp(id: string): ShoalError {
  return new ShoalError('NOT_FOUND', `this device has no application ${id.slice(0, 64)}`)
}

/** Nothing is asked for by the query of most requests. @throws USAGE */
export function refuseQuery({ query }: Call, known: readonly string[] = []): void {
  const stray = Object.keys(query).find((name) => !known.includes(name))
  if (stray !== undefined) throw new ShoalError('USAGE', `no such parameter: ${stray.slice(0, 80)}`)
}

/** kube-mec's verbs: for devices that have no more than an HTTP client. */
export function createAppRoutes({
  offload,
  contexts,
  whereabouts,
  members,
  moved,
  signal,
}: {
  offload: Offload
  contexts: Contexts
  whereabouts: Whereabouts
  members: Membership
  /** The device is at another node now. */
  moved: (ue: string) => void
  /** Fires when the daemon stops: a device that goes away does not end what it began. */
  signal: AbortSignal
}): MecRoute[] {
  const contextId = (id: string): string | undefined => contexts.ofApp(id)?.id
  const location = (ue: string): Record<string, unknown> => {
    const where = whereabouts.of(ue)
    if (!where) throw new ShoalError('NOT_FOUND', 'it is not known where the device is')
    const name = members.find(where.entry)?.name
    return { node: name ?? where.entry, peer: where.entry, by: where.by, at: where.at }
  }

  return [
    {
      method: 'get',
      path: '/mec/v1/apps',
      async handle(call) {
        refuseQuery(call)
        const apps = await offload.list(call.ue)
        return { status: 200, body: apps.map((app) => appView(app, contextId(app.id))) }
      },
    },
    {
      method: 'post',
      path: '/mec/v1/apps',
      async handle(call) {
        const spec = parseApp(call.body)
        if ((await offload.list(call.ue)).length >= MAX_APPS) {
          throw new ShoalError('DENIED', `the device has ${MAX_APPS} applications: delete one`)
        }
        const app = await offload.register(call.ue, spec)
        const headers = { Location: `${call.base}/mec/v1/apps/${app.id}` }
        return { status: 201, headers, body: appView(app) }
      },
    },
    {
      method: 'get',
      path: '/mec/v1/apps/{id}',
      async handle(call, { id = '' }) {
        refuseQuery(call)
        const app = await offload.get(call.ue, id)
        if (!app) throw noApp(id)
        return { status: 200, body: appView(app, contextId(id)) }
      },
    },
    {
      method: 'post',
      path: '/mec/v1/apps/{id}/offload',
      async handle(call, { id = '' }) {
        if (call.body !== undefined) readBody((r) => r.record(call.body, '', []))
        if (!(await offload.get(call.ue, id))) throw noApp(id)
        const entry = whereabouts.of(call.ue)?.entry
        const app = await offload.offload(call.ue, id, entry === undefined ? {} : { entry })
        const headers = { Location: `${call.base}/mec/v1/apps/${id}` }
        return { status: 202, headers, body: appView(app, contextId(id)) }
      },
    },
    {
      method: 'delete',
      path: '/mec/v1/apps/{id}',
      async handle(call, { id = '' }) {
        if (contexts.ofApp(id)?.ue === call.ue) await contexts.appDeleted(id)
        else if (!(await offload.delete(call.ue, id, signal))) throw noApp(id)
        return { status: 204 }
      },
    },
    {
      method: 'get',
      path: '/mec/v1/location',
      async handle(call) {
        refuseQuery(call)
        return { status: 200, body: location(call.ue) }
      },
    },
    {
      method: 'put',
      path: '/mec/v1/location',
      async handle(call) {
        const node = readBody((r) => r.text(r.record(call.body, '', ['node']).node, 'node', { max: 128 }))
        const found = members.find(node)
        if (!found) throw malformed([{ field: 'node', detail: 'must be the name or the peer ID of a node' }])
        if (await whereabouts.report(call.ue, found.id)) moved(call.ue)
        return { status: 200, body: location(call.ue) }
      },
    },
  ]
}
