import { ShoalError } from '../../base/index.ts'
import { refuseQuery } from './app-routes.ts'
import { parseSelection, select } from './attribute-filter.ts'
import type { Mobility } from './mobility.ts'
import type { Call, MecRoute } from './types.ts'

const LIST_TYPES: Record<string, string> = {
  mobility_proc: 'MobilityProcedureSubscription',
  adj_app_info: 'AdjacentAppInfoSubscription',
}

function wantedType(call: Call): string | undefined {
  refuseQuery(call, ['subscriptionType'])
  const [type, ...more] = call.query.subscriptionType ?? []
  if (type === undefined) return undefined
  const wanted = Object.hasOwn(LIST_TYPES, type) ? LIST_TYPES[type] : undefined
  if (!wanted || more.length > 0) {
    throw new ShoalError('USAGE', `subscriptionType must be one of ${Object.keys(LIST_TYPES).join(', ')}`)
  }
  return wanted
}

/** The application mobility service of ETSI MEC 021 v2.2.1. */
export function createAmsiRoutes({ mobility }: { mobility: Mobility }): MecRoute[] {
  const services = '/amsi/v1/app_mobility_services'
  const subscriptions = '/amsi/v1/subscriptions'
  return [
    {
      method: 'get',
      path: services,
      async handle(call) {
        const selection = parseSelection(call.query)
        return {
          status: 200,
          body: select(mobility.registrations(call.ue), selection, ['deviceInformation']),
        }
      },
    },
    {
      method: 'post',
      path: services,
      async handle(call) {
        const body = await mobility.register(call)
        const headers = { Location: `${call.base}${services}/${body.appMobilityServiceId}` }
        return { status: 201, headers, body }
      },
    },
    {
      method: 'get',
      path: `${services}/{appMobilityServiceId}`,
      async handle(call, { appMobilityServiceId = '' }) {
        refuseQuery(call)
        return { status: 200, body: mobility.registration(call.ue, appMobilityServiceId) }
      },
    },
    {
      method: 'put',
      path: `${services}/{appMobilityServiceId}`,
      async handle(call, { appMobilityServiceId = '' }) {
        return { status: 200, body: await mobility.updateRegistration(call, appMobilityServiceId) }
      },
    },
    {
      method: 'delete',
      path: `${services}/{appMobilityServiceId}`,
      async handle(call, { appMobilityServiceId = '' }) {
        await mobility.deregister(call.ue, appMobilityServiceId)
        return { status: 204 }
      },
    },
    {
      method: 'post',
      path: `${services}/{appMobilityServiceId}/deregister_task`,
      async handle(call, { appMobilityServiceId = '' }) {
        await mobility.deregister(call.ue, appMobilityServiceId)
        return { status: 204 }
      },
    },
    {
      method: 'get',
      path: '/amsi/v1/queries/adjacent_app_instances',
      async handle(call) {
        const selection = parseSelection(call.query)
        return {
          status: 200,
          body: select(await mobility.adjacent(call.ue), selection, ['mecHostInformation']),
        }
      },
    },
    {
      method: 'get',
      path: subscriptions,
      async handle(call) {
        const type = wantedType(call)
        const subscription = mobility
          .subscriptions(call.ue)
          .filter(({ subscriptionType }) => type === undefined || subscriptionType === type)
        return {
          status: 200,
          body: { _links: { self: { href: `${call.base}${subscriptions}` }, subscription } },
        }
      },
    },
    {
      method: 'post',
      path: subscriptions,
      async handle(call) {
        const body = await mobility.subscribe(call)
        const { self } = body._links as { self: { href: string } }
        return { status: 201, headers: { Location: self.href }, body }
      },
    },
    {
      method: 'get',
      path: `${subscriptions}/{subscriptionId}`,
      async handle(call, { subscriptionId = '' }) {
        refuseQuery(call)
        return { status: 200, body: mobility.subscription(call.ue, subscriptionId) }
      },
    },
    {
      method: 'put',
      path: `${subscriptions}/{subscriptionId}`,
      async handle(call, { subscriptionId = '' }) {
        return { status: 200, body: await mobility.updateSubscription(call, subscriptionId) }
      },
    },
    {
      method: 'delete',
      path: `${subscriptions}/{subscriptionId}`,
      async handle(call, { subscriptionId = '' }) {
        await mobility.unsubscribe(call.ue, subscriptionId)
        return { status: 204 }
      },
    },
  ]
}
