import { ShoalError } from '../../base/index.ts'
import type { App, Offload } from '../offload/types.ts'
import { refuseQuery } from './app-routes.ts'
import type { Catalogue, Filters } from './catalogue.ts'
import { parseAvailability } from './context-body.ts'
import type { Contexts } from './contexts.ts'
import type { Locations } from './location.ts'
import type { Call, MecRoute } from './types.ts'
import type { Whereabouts } from './whereabouts.ts'

const FILTERS = ['appName', 'appProvider', 'appSoftVersion', 'vendorId', 'serviceCont'] as const

function parseFilters(call: Call): Filters {
  refuseQuery(call, FILTERS)
  const values = (name: (typeof FILTERS)[number]): string[] => {
    const given = call.query[name] ?? []
    if (given.some((value) => [...value].length > 32)) {
      throw new ShoalError('USAGE', `${name} must have 32 characters at most`)
    }
    return given
  }
  const serviceCont = values('serviceCont')
  if (serviceCont.length > 1 || serviceCont.some((value) => value !== '0' && value !== '1')) {
    throw new ShoalError('USAGE', 'serviceCont must be 0 or 1')
  }
  return {
    appName: values('appName'),
    appProvider: values('appProvider'),
    appSoftVersion: values('appSoftVersion'),
    vendorId: values('vendorId'),
    serviceCont: serviceCont[0] === undefined ? undefined : serviceCont[0] === '1',
  }
}

/** The device application interface of ETSI MEC 016 v2.2.1. */
export function createDevAppRoutes({
  offload,
  contexts,
  catalogue,
  locations,
  whereabouts,
  signal,
}: {
  offload: Offload
  contexts: Contexts
  catalogue: Catalogue
  locations: Locations
  whereabouts: Whereabouts
  signal: AbortSignal
}): MecRoute[] {
  /** Applications that the device registered itself; those that contexts made are none to choose from. */
  const own = async (ue: string): Promise<App[]> =>
    (await offload.list(ue)).filter(({ id }) => contexts.ofApp(id) === undefined)

  return [
    {
      method: 'get',
      path: '/dev_app/v1/app_list',
      async handle(call) {
        const filters = parseFilters(call)
        return { status: 200, body: catalogue.list(call.ue, await own(call.ue), filters) }
      },
    },
    {
      method: 'post',
      path: '/dev_app/v1/app_contexts',
      async handle(call) {
        const context = await contexts.create(call, signal)
        const headers = { Location: `${call.base}/dev_app/v1/app_contexts/${context.contextId}` }
        return { status: 201, headers, body: context }
      },
    },
    {
      method: 'put',
      path: '/dev_app/v1/app_contexts/{contextId}',
      async handle(call, { contextId = '' }) {
        await contexts.update(call, contextId)
        return { status: 204 }
      },
    },
    {
      method: 'delete',
      path: '/dev_app/v1/app_contexts/{contextId}',
      async handle(call, { contextId = '' }) {
        await contexts.remove(call.ue, contextId)
        return { status: 204 }
      },
    },
    {
      method: 'post',
      path: '/dev_app/v1/obtain_app_loc_availability',
      async handle(call) {
        const { associateDevAppId, appInfo } = parseAvailability(call.body)
        const spec = await catalogue.resolve(call, await own(call.ue), appInfo, signal)
        const entry = whereabouts.of(call.ue)?.entry
        const { fits, nodes } = await offload.available(spec, entry === undefined ? {} : { entry })
        const availableLocations = (fits ? nodes : []).map((node) => ({ appLocation: locations.of(node) }))
        return { status: 200, body: { associateDevAppId, appInfo: { ...appInfo, availableLocations } } }
      },
    },
  ]
}
