import { isIP } from 'node:net'
import type { Log } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Membership } from '../../manager/index.ts'
import type { App, Offload } from '../offload/types.ts'
import {
  type AssociateId,
  type MobilityStatus,
  type RegistrationInfo,
  type Subscription,
  timeStamp,
} from './amsi-body.ts'
import { bareAddress } from './callback-target.ts'
import type { ContextRequest } from './context-body.ts'
import { hostPortOf, instancesOf } from './instances.ts'
import type { Outbox } from './outbox.ts'

export interface StoredRegistration {
  id: string
  ue: string
  info: RegistrationInfo
  /** ms since the epoch. */
  acceptedAt: number
}

export interface StoredSubscription {
  id: string
  ue: string
  subscription: Subscription
  href: string
  allowLoopback: boolean
  /** The device's, for notifications about nobody else's. */
  address: string
  createdAt: number
  expiryTold: boolean
  /** Adjacent instances that were told last, as JSON. */
  adjacent: string
}

/** Changes of one device's applications come in swarms. */
const SETTLE_MS = 200

/** Does the registration speak for the instance? */
export function serves(registration: StoredRegistration, appInstanceId: string): boolean {
  const { serviceConsumerId } = registration.info
  return 'appInstanceId' in serviceConsumerId && serviceConsumerId.appInstanceId === appInstanceId
}

export function laneOf(id: string): string {
  return `subscription/${id}`
}

/** What subscribers of the application mobility service are told. */
export interface Notices {
  send(one: StoredSubscription, body: Record<string, unknown>): Promise<void>
  /** The `_links` of a subscription's notifications. */
  links(one: StoredSubscription): Record<string, unknown>
  test(one: StoredSubscription): Promise<void>
  mobility(
    app: App,
    appInstanceId: string,
    status: MobilityStatus,
    referenceURI: string | undefined,
  ): Promise<void>
  /** ETSI MEC 021, 7.2.3. */
  adjacent(ue: string): Promise<Record<string, unknown>[]>
  /** Instances of the device, or what it registered, may have changed. */
  adjacencyChanged(ue: string): void
  close(): void
}

export function createNotices({
  registrationsOf,
  subscriptionsOf,
  records,
  offload,
  outbox,
  members,
  contextOf,
  log,
  now,
}: {
  registrationsOf: (ue: string) => StoredRegistration[]
  subscriptionsOf: (ue: string) => StoredSubscription[]
  records: Records<StoredSubscription>
  offload: Offload
  outbox: Outbox
  members: Membership
  contextOf: (appId: string) => ContextRequest | undefined
  log: Log
  now: () => number
}): Notices {
  const stale = new Set<string>()
  let adjacentTimer: NodeJS.Timeout | undefined
  let closed = false

  async function send(one: StoredSubscription, body: Record<string, unknown>): Promise<void> {
    const { id, ue, subscription, allowLoopback } = one
    await outbox.add({ lane: laneOf(id), ue, url: subscription.callbackReference, allowLoopback, body })
  }

  const links = ({ href }: StoredSubscription): Record<string, unknown> => ({ subscription: { href } })

  /** Devices that an instance serves: as it was registered, else the one whose it is. */
  function devicesOf(ue: string, appInstanceId: string, address: string): AssociateId[] {
    const registered = registrationsOf(ue)
      .filter((one) => serves(one, appInstanceId))
      .flatMap(({ info }) => (info.deviceInformation ?? []).map(({ associateId }) => associateId))
    if (registered.length > 0) return registered
    const value = bareAddress(address)
    return [{ type: isIP(value) === 6 ? 'UE_IPV6_ADDRESS' : 'UE_IPv4_ADDRESS', value }]
  }

  async function tellMobility(
    { owner }: App,
    appInstanceId: string,
    status: MobilityStatus,
    referenceURI: string | undefined,
  ): Promise<void> {
    for (const one of subscriptionsOf(owner)) {
      const { subscriptionType, filterCriteria } = one.subscription
      if (subscriptionType !== 'MobilityProcedureSubscription') continue
      if (!filterCriteria.mobilityStatus?.includes(status)) continue
      if (filterCriteria.appInstanceId !== undefined && filterCriteria.appInstanceId !== appInstanceId)
        continue
      const wanted = filterCriteria.associateId ?? []
      const devices = devicesOf(owner, appInstanceId, one.address).filter(
        ({ type, value }) =>
          wanted.length === 0 || wanted.some((other) => other.type === type && other.value === value),
      )
      if (devices.length === 0) continue
      const address = referenceURI === undefined ? undefined : hostPortOf(referenceURI)
      await send(one, {
        notificationType: 'MobilityProcedureNotification',
        timeStamp: timeStamp(now()),
        associateId: devices,
        mobilityStatus: status,
        targetAppInfo: {
          appInstanceId,
          ...(address === undefined ? {} : { commInterface: { ipAddresses: [address] } }),
        },
        _links: links(one),
      })
    }
  }

  function descriptorOf(app: App): string {
    return contextOf(app.id)?.appInfo.appDId ?? app.id
  }

  async function adjacent(ue: string): Promise<Record<string, unknown>[]> {
    const apps = await offload.list(ue)
    const instances = apps.flatMap((app) =>
      instancesOf(app).map((instance) => ({ ...instance, appDId: descriptorOf(app) })),
    )
    const isRegistered = ({ appInstanceId }: { appInstanceId: string }): boolean =>
      registrationsOf(ue).some((one) => serves(one, appInstanceId))
    const registered = instances.filter(isRegistered)
    return instances.flatMap((instance) => {
      const address = instance.referenceURI === undefined ? undefined : hostPortOf(instance.referenceURI)
      if (!address || isRegistered(instance)) return []
      const host = instance.peer === undefined ? undefined : members.find(instance.peer)
      const beside = registered.find(
        (one) => one.appDId === instance.appDId && one.pod === instance.pod && one.peer !== instance.peer,
      )
      return [
        {
          appInstanceId: instance.appInstanceId,
          appDId: instance.appDId,
          appInstanceCommLink: [{ ipAddresses: [address] }],
          ...(host
            ? {
                mecHostInformation: {
                  hostName: host.name,
                  hostId: { shoal: { peer: host.id, site: host.site } },
                },
              }
            : {}),
          ...(beside ? { registeredInstanceId: beside.appInstanceId } : {}),
        },
      ]
    })
  }

  async function tellAdjacent(ue: string): Promise<void> {
    const mine = subscriptionsOf(ue).filter(
      ({ subscription }) => subscription.subscriptionType === 'AdjacentAppInfoSubscription',
    )
    if (mine.length === 0) return
    const all = await adjacent(ue)
    for (const one of mine) {
      const { appInstanceId } = one.subscription.filterCriteria
      const found = all.filter(
        ({ registeredInstanceId }) =>
          registeredInstanceId !== undefined &&
          (appInstanceId === undefined || registeredInstanceId === appInstanceId),
      )
      const text = JSON.stringify(found)
      if (text === one.adjacent) continue
      one.adjacent = text
      await send(one, {
        notificationType: 'AdjacentAppInfoNotification',
        timeStamp: timeStamp(now()),
        ...(appInstanceId === undefined ? {} : { associateId: devicesOf(ue, appInstanceId, one.address) }),
        adjacentAppInfo: found.map((info) => ({
          appInstanceId: info.appInstanceId,
          commInterface: info.appInstanceCommLink,
        })),
        _links: links(one),
      })
      await records.put(one.id, one)
    }
  }

  function adjacencyChanged(ue: string): void {
    stale.add(ue)
    adjacentTimer ??= setTimeout(() => {
      adjacentTimer = undefined
      const ues = [...stale]
      stale.clear()
      for (const one of ues) {
        tellAdjacent(one).catch((error) => {
          if (!closed)
            log.warn({ err: error, ue: one }, 'subscribers could not be told of adjacent instances')
        })
      }
    }, SETTLE_MS)
  }

  return {
    send,
    links,
    async test(one) {
      if (!one.subscription.requestTestNotification) return
      await send(one, { notificationType: 'TestNotification', _links: links(one) })
    },
    mobility: tellMobility,
    adjacent,
    adjacencyChanged,
    close() {
      closed = true
      clearTimeout(adjacentTimer)
    },
  }
}
