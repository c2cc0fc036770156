import { randomBytes } from 'node:crypto'
import { createTurns, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Membership } from '../../manager/index.ts'
import type { App, AppMoved, Offload } from '../offload/types.ts'
import {
  type MobilityStatus,
  millisecondsOf,
  parseRegistration,
  parseSubscription,
  timeStamp,
} from './amsi-body.ts'
import { checkCallback } from './callback-target.ts'
import type { ContextRequest } from './context-body.ts'
import { malformed } from './fields.ts'
import { instanceId, instancesOf, parseInstanceId } from './instances.ts'
import { createNotices, laneOf, type StoredRegistration, type StoredSubscription, serves } from './notices.ts'
import type { Outbox } from './outbox.ts'
import type { Call } from './types.ts'

/** The application mobility service of ETSI MEC 021 for the devices whose home this node is. */
export interface Mobility {
  /** @throws USAGE | DENIED (too many) */
  register(call: Call): Promise<Record<string, unknown>>
  registrations(ue: string): Record<string, unknown>[]
  /** These and the following of one thing: @throws NOT_FOUND */
  registration(ue: string, id: string): Record<string, unknown>
  updateRegistration(call: Call, id: string): Promise<Record<string, unknown>>
  deregister(ue: string, id: string): Promise<void>
  /** @throws USAGE | DENIED (too many) */
  subscribe(call: Call): Promise<Record<string, unknown>>
  /** Links, as the list has them. */
  subscriptions(ue: string): { href: string; subscriptionType: string }[]
  subscription(ue: string, id: string): Record<string, unknown>
  updateSubscription(call: Call, id: string): Promise<Record<string, unknown>>
  unsubscribe(ue: string, id: string): Promise<void>
  /** ETSI MEC 021, 7.2.3. */
  adjacent(ue: string): Promise<Record<string, unknown>[]>
  /** May the application be moved without asking it? */
  mayMove(app: App): boolean
  /** The device is somewhere else: applications that want to be asked before they move are. */
  deviceMoved(ue: string): Promise<void>
  close(): Promise<void>
}

const MAX_EACH = 64
/** A subscriber hears so long before that its subscription ends, or at half of its time. */
const WARN_MS = 10e3
const MAX_TIMER_MS = 3600e3

const STATUS_OF: Record<AppMoved['status'], MobilityStatus> = {
  moving: 'INTERHOST_MOVEOUT_TRIGGERED',
  moved: 'INTERHOST_MOVEOUT_COMPLETED',
  failed: 'INTERHOST_MOVEOUT_FAILED',
}

export async function createMobility({
  records,
  offload,
  outbox,
  members,
  contextOf,
  onConfirmed,
  log,
  now = Date.now,
}: {
  records: { registrations: Records<StoredRegistration>; subscriptions: Records<StoredSubscription> }
  offload: Offload
  outbox: Outbox
  members: Membership
  /** What an application was made for. */
  contextOf: (appId: string) => ContextRequest | undefined
  /** The application says that it may be moved now. */
  onConfirmed: (ue: string, appId: string) => void
  log: Log
  now?: () => number
}): Promise<Mobility> {
  const registrations = new Map<string, StoredRegistration>()
  const subscriptions = new Map<string, StoredSubscription>()
  /** Applications that were asked whether they may be moved. */
  const asked = new Set<string>()
  const inTurn = createTurns().run
  let expiryTimer: NodeJS.Timeout | undefined
  let closed = false

  for await (const [id, one] of records.registrations.entries()) registrations.set(id, one)
  for await (const [id, one] of records.subscriptions.entries()) subscriptions.set(id, one)

  const ofUe = <T extends { ue: string }>(table: Map<string, T>, ue: string): T[] =>
    [...table.values()].filter((one) => one.ue === ue)

  const notices = createNotices({
    registrationsOf: (ue) => ofUe(registrations, ue),
    subscriptionsOf: (ue) => ofUe(subscriptions, ue),
    records: records.subscriptions,
    offload,
    outbox,
    members,
    contextOf,
    log,
    now,
  })

  function find<T extends { ue: string }>(table: Map<string, T>, ue: string, id: string, what: string): T {
    const found = table.get(id)
    if (found?.ue !== ue) throw new ShoalError('NOT_FOUND', `this device has no such ${what}`)
    return found
  }

  function refuseTooMany(table: Map<string, { ue: string }>, ue: string, what: string): void {
    if (ofUe(table, ue).length >= MAX_EACH) {
      throw new ShoalError('DENIED', `the device has ${MAX_EACH} ${what}: delete one`)
    }
  }

  const registrationView = ({ id, info }: StoredRegistration): Record<string, unknown> => ({
    appMobilityServiceId: id,
    ...info,
  })
  const subscriptionView = ({ subscription, href }: StoredSubscription): Record<string, unknown> => ({
    ...subscription,
    _links: { self: { href } },
  })

  /** The state goes with the application, so that its devices' contexts are where it is. */
  async function noteTransfer(ue: string, appInstanceId: string): Promise<void> {
    for (const one of ofUe(registrations, ue).filter((other) => serves(other, appInstanceId))) {
      for (const device of one.info.deviceInformation ?? []) {
        device.contextTransferState = 'USER_CONTEXT_TRANSFER_COMPLETED'
      }
      await records.registrations.put(one.id, one)
    }
  }

  async function onMoved({ app, pod, status, referenceURI }: AppMoved): Promise<void> {
    const appInstanceId = instanceId(app.id, pod)
    // Who was asked has heard of it.
    if (status === 'moving' && asked.has(app.id)) return
    if (status !== 'moving') asked.delete(app.id)
    const address = status === 'moved' ? referenceURI : undefined
    await notices.mobility(app, appInstanceId, STATUS_OF[status], address)
    if (status === 'moved') await noteTransfer(app.owner, appInstanceId)
  }

  function quietly(work: Promise<unknown>): void {
    work.catch((error) => {
      if (!closed) log.warn({ err: error }, 'a subscriber could not be told')
    })
  }

  function expiryOf({ info, acceptedAt }: StoredRegistration): number {
    const seconds = info.expiryTime ?? 0
    return seconds === 0 ? Number.POSITIVE_INFINITY : acceptedAt + seconds * 1000
  }

  function warningOf(one: StoredSubscription, deadline: number): number {
    return one.expiryTold ? deadline : deadline - Math.min(WARN_MS, (deadline - one.createdAt) / 2)
  }

  const deadlineOf = ({ subscription: { expiryDeadline } }: StoredSubscription): number =>
    expiryDeadline ? millisecondsOf(expiryDeadline) : Number.POSITIVE_INFINITY

  async function expire(): Promise<void> {
    for (const one of [...registrations.values()]) {
      if (expiryOf(one) > now()) continue
      registrations.delete(one.id)
      await records.registrations.delete(one.id)
    }
    for (const one of [...subscriptions.values()]) {
      const deadline = deadlineOf(one)
      if (warningOf(one, deadline) > now()) continue
      if (!one.expiryTold) {
        one.expiryTold = true
        await notices.send(one, {
          notificationType: 'ExpiryNotification',
          timeStamp: timeStamp(now()),
          expiryDeadline: one.subscription.expiryDeadline,
          _links: notices.links(one),
        })
        await records.subscriptions.put(one.id, one)
      }
      if (deadline > now()) continue
      subscriptions.delete(one.id)
      await records.subscriptions.delete(one.id)
    }
    schedule()
  }

  function schedule(): void {
    clearTimeout(expiryTimer)
    if (closed) return
    const times = [
      ...[...registrations.values()].map(expiryOf),
      ...[...subscriptions.values()].map((one) => warningOf(one, deadlineOf(one))),
    ]
    const next = times.reduce((least, time) => Math.min(least, time), Number.POSITIVE_INFINITY)
    if (!Number.isFinite(next)) return
    const inMs = Math.min(Math.max(next - now(), 10), MAX_TIMER_MS)
    expiryTimer = setTimeout(() => quietly(expire()), inMs)
  }

  const off = [
    // One after the other: a subscriber must not hear of the end before the beginning.
    offload.onMoved((moved) => quietly(inTurn(moved.app.id, () => onMoved(moved)))),
    offload.onChange((app) => {
      if (app.state !== 'copying' && app.state !== 'registered') notices.adjacencyChanged(app.owner)
    }),
  ]
  schedule()

  return {
    async register(call) {
      const info = parseRegistration(call.body)
      refuseTooMany(registrations, call.ue, 'registrations')
      const one = { id: randomBytes(16).toString('hex'), ue: call.ue, info, acceptedAt: now() }
      registrations.set(one.id, one)
      await records.registrations.put(one.id, one)
      schedule()
      notices.adjacencyChanged(call.ue)
      return registrationView(one)
    },
    registrations: (ue) => ofUe(registrations, ue).map(registrationView),
    registration: (ue, id) => registrationView(find(registrations, ue, id, 'registration')),
    async updateRegistration(call, id) {
      const one = find(registrations, call.ue, id, 'registration')
      const info = parseRegistration(call.body, { id })
      const updated = { ...one, info, acceptedAt: now() }
      registrations.set(id, updated)
      await records.registrations.put(id, updated)
      schedule()
      notices.adjacencyChanged(call.ue)
      const { serviceConsumerId, deviceInformation = [] } = info
      const instance =
        'appInstanceId' in serviceConsumerId ? parseInstanceId(serviceConsumerId.appInstanceId) : undefined
      const ready = deviceInformation.some(
        ({ contextTransferState }) => contextTransferState === 'USER_CONTEXT_TRANSFER_COMPLETED',
      )
      if (instance && ready && asked.has(instance.appId)) onConfirmed(call.ue, instance.appId)
      return registrationView(updated)
    },
    async deregister(ue, id) {
      find(registrations, ue, id, 'registration')
      registrations.delete(id)
      await records.registrations.delete(id)
      notices.adjacencyChanged(ue)
    },
    async subscribe(call) {
      const subscription = parseSubscription(call.body, now())
      checkCallback(subscription.callbackReference, call)
      refuseTooMany(subscriptions, call.ue, 'subscriptions')
      const id = randomBytes(16).toString('hex')
      const one: StoredSubscription = {
        id,
        ue: call.ue,
        subscription,
        href: `${call.base}/amsi/v1/subscriptions/${id}`,
        allowLoopback: call.local,
        address: call.address,
        createdAt: now(),
        expiryTold: false,
        adjacent: '[]',
      }
      subscriptions.set(id, one)
      await records.subscriptions.put(id, one)
      await notices.test(one)
      schedule()
      notices.adjacencyChanged(call.ue)
      return subscriptionView(one)
    },
    subscriptions: (ue) =>
      ofUe(subscriptions, ue).map(({ href, subscription: { subscriptionType } }) => ({
        href,
        subscriptionType,
      })),
    subscription: (ue, id) => subscriptionView(find(subscriptions, ue, id, 'subscription')),
    async updateSubscription(call, id) {
      const one = find(subscriptions, call.ue, id, 'subscription')
      const subscription = parseSubscription(call.body, now())
      if (subscription.subscriptionType !== one.subscription.subscriptionType) {
        throw malformed([{ field: 'subscriptionType', detail: 'cannot be updated' }])
      }
      checkCallback(subscription.callbackReference, call)
      const updated: StoredSubscription = {
        ...one,
        subscription,
        allowLoopback: call.local,
        address: call.address,
        createdAt: now(),
        expiryTold: false,
      }
      subscriptions.set(id, updated)
      await records.subscriptions.put(id, updated)
      await outbox.redirect(laneOf(id), subscription.callbackReference, call.local)
      await notices.test(updated)
      schedule()
      notices.adjacencyChanged(call.ue)
      return subscriptionView(updated)
    },
    async unsubscribe(ue, id) {
      find(subscriptions, ue, id, 'subscription')
      subscriptions.delete(id)
      await records.subscriptions.delete(id)
      await outbox.forget(laneOf(id))
    },
    adjacent: notices.adjacent,
    mayMove(app) {
      const levels = ofUe(registrations, app.owner)
        .filter((one) => instancesOf(app).some(({ appInstanceId }) => serves(one, appInstanceId)))
        .flatMap(({ info }) => (info.deviceInformation ?? []).map((device) => device.appMobilityServiceLevel))
      return levels.every((level) => level === undefined || level === 'APP_MOBILITY_WITHOUT_CONFIRMATION')
    },
    async deviceMoved(ue) {
      for (const app of await offload.list(ue)) {
        if (app.state !== 'running' || asked.has(app.id)) continue
        for (const { appInstanceId } of instancesOf(app)) {
          const wantsToBeAsked = ofUe(registrations, ue)
            .filter((one) => serves(one, appInstanceId))
            .some(({ info }) =>
              (info.deviceInformation ?? []).some(
                ({ appMobilityServiceLevel: level }) => level === 'APP_MOBILITY_WITH_CONFIRMATION',
              ),
            )
          if (!wantsToBeAsked) continue
          asked.add(app.id)
          await notices.mobility(app, appInstanceId, 'INTERHOST_MOVEOUT_TRIGGERED', undefined)
        }
      }
    },
    async close() {
      closed = true
      clearTimeout(expiryTimer)
      notices.close()
      for (const stop of off) stop()
    },
  }
}
