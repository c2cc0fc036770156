import { ShoalError } from '../../base/index.ts'
import { member, type Reader, readBody } from './fields.ts'

/** Enumerations of ETSI MEC 021 v2.2.1, as its API has them. */
export const MOBILITY_STATUSES = [
  'INTERHOST_MOVEOUT_TRIGGERED',
  'INTERHOST_MOVEOUT_COMPLETED',
  'INTERHOST_MOVEOUT_FAILED',
] as const
export const SERVICE_LEVELS = [
  'APP_MOBILITY_NOT_ALLOWED',
  'APP_MOBILITY_WITH_CONFIRMATION',
  'APP_MOBILITY_WITHOUT_CONFIRMATION',
] as const
export const TRANSFER_STATES = ['NOT_TRANSFERRED', 'USER_CONTEXT_TRANSFER_COMPLETED'] as const
export const ASSOCIATE_TYPES = ['UE_IPv4_ADDRESS', 'UE_IPV6_ADDRESS', 'NATED_IP_ADDRESS', 'GTP_TEID'] as const
export const SUBSCRIPTION_TYPES = ['MobilityProcedureSubscription', 'AdjacentAppInfoSubscription'] as const

export type MobilityStatus = (typeof MOBILITY_STATUSES)[number]
export type ServiceLevel = (typeof SERVICE_LEVELS)[number]
export type TransferState = (typeof TRANSFER_STATES)[number]

export interface AssociateId {
  type: (typeof ASSOCIATE_TYPES)[number]
  value: string
}

export interface TimeStamp {
  seconds: number
  nanoSeconds: number
}

export interface DeviceInformation {
  associateId: AssociateId
  appMobilityServiceLevel?: ServiceLevel
  contextTransferState?: TransferState
}

export interface RegistrationInfo {
  serviceConsumerId: { appInstanceId: string } | { mepId: string }
  deviceInformation?: DeviceInformation[]
  /** Seconds from when it was accepted; 0: for ever. */
  expiryTime?: number
}

export interface Subscription {
  subscriptionType: (typeof SUBSCRIPTION_TYPES)[number]
  callbackReference: string
  requestTestNotification?: boolean
  expiryDeadline?: TimeStamp
  filterCriteria: { appInstanceId?: string; associateId?: AssociateId[]; mobilityStatus?: MobilityStatus[] }
}

/** The standard gives no limit; a limit there must be. */
const TEXT = { max: 256 }
const MAX_SECONDS = 2 ** 32 - 1

function readAssociateId(r: Reader, value: unknown, field: string): AssociateId {
  const given = r.record(value, field)
  return {
    type: r.choice(given.type, member(field, 'type'), ASSOCIATE_TYPES),
    value: r.text(given.value, member(field, 'value'), TEXT),
  }
}

function readDevice(r: Reader, value: unknown, field: string): DeviceInformation {
  const given = r.record(value, field)
  const device: DeviceInformation = {
    associateId: readAssociateId(r, given.associateId, member(field, 'associateId')),
  }
  const level = r.optional(given.appMobilityServiceLevel, (one) =>
    r.choice(one, member(field, 'appMobilityServiceLevel'), SERVICE_LEVELS),
  )
  if (level !== undefined) device.appMobilityServiceLevel = level
  const state = r.optional(given.contextTransferState, (one) =>
    r.choice(one, member(field, 'contextTransferState'), TRANSFER_STATES),
  )
  if (state !== undefined) device.contextTransferState = state
  return device
}

/** ETSI MEC 021, 7.2.2. `id`: that of an update, which must name no other. @throws USAGE */
export function parseRegistration(body: unknown, { id }: { id?: string } = {}): RegistrationInfo {
  return readBody((r) => {
    const given = r.record(body, '')
    if (given.appMobilityServiceId !== undefined && given.appMobilityServiceId !== id) {
      r.fault(
        'appMobilityServiceId',
        id === undefined ? 'must not be there: it is assigned by the answer' : "must be the path's",
      )
    }
    const consumer = r.record(given.serviceConsumerId, 'serviceConsumerId')
    const both = ['appInstanceId', 'mepId'].filter((name) => consumer[name] !== undefined)
    if (given.serviceConsumerId !== undefined && both.length !== 1) {
      r.fault('serviceConsumerId', 'must have either appInstanceId or mepId')
    }
    const name = both[0] === 'mepId' ? 'mepId' : 'appInstanceId'
    const consumerId =
      both.length === 1 ? r.text(consumer[name], member('serviceConsumerId', name), TEXT) : ''
    const info: RegistrationInfo = {
      serviceConsumerId: name === 'mepId' ? { mepId: consumerId } : { appInstanceId: consumerId },
    }
    const devices = r.optional(given.deviceInformation, (value) =>
      r.list(value, 'deviceInformation', { max: 64 }, (item, at) => readDevice(r, item, at)),
    )
    if (devices) info.deviceInformation = devices
    const expiry = r.optional(given.expiryTime, (value) =>
      r.whole(value, 'expiryTime', { min: 0, max: MAX_SECONDS }),
    )
    if (expiry !== undefined) info.expiryTime = expiry
    return info
  })
}

function readFilter(r: Reader, value: unknown, mobility: boolean): Subscription['filterCriteria'] {
  const at = (name: string): string => member('filterCriteria', name)
  const given = r.record(value, 'filterCriteria')
  const filter: Subscription['filterCriteria'] = {}
  const instance = r.optional(given.appInstanceId, (one) => r.text(one, at('appInstanceId'), TEXT))
  if (instance !== undefined) filter.appInstanceId = instance
  if (!mobility) return filter
  const associateId = r.optional(given.associateId, (list) =>
    r.list(list, at('associateId'), { max: 64 }, (item, where) => readAssociateId(r, item, where)),
  )
  if (associateId) filter.associateId = associateId
  const statuses = r.optional(given.mobilityStatus, (list) =>
    r.list(list, at('mobilityStatus'), { max: 3 }, (item, where) => r.choice(item, where, MOBILITY_STATUSES)),
  )
  // As the standard has it: who names none means the first, and is told so.
  filter.mobilityStatus = statuses && statuses.length > 0 ? statuses : ['INTERHOST_MOVEOUT_TRIGGERED']
  return filter
}

/** ETSI MEC 021, 7.3.2 and 7.3.3. @throws USAGE; with status 422 for a way of telling that there is not */
export function parseSubscription(body: unknown, nowMs: number): Subscription {
  const subscription = readBody((r) => {
    const given = r.record(body, '')
    const type = r.choice(given.subscriptionType, 'subscriptionType', SUBSCRIPTION_TYPES)
    const parsed: Partial<Subscription> & Pick<Subscription, 'subscriptionType' | 'filterCriteria'> = {
      subscriptionType: type,
      filterCriteria: readFilter(r, given.filterCriteria, type === 'MobilityProcedureSubscription'),
    }
    const callback = r.optional(given.callbackReference, (value) => r.uri(value, 'callbackReference'))
    if (callback !== undefined) parsed.callbackReference = callback
    const test = r.optional(given.requestTestNotification, (value) =>
      r.flag(value, 'requestTestNotification'),
    )
    if (test !== undefined) parsed.requestTestNotification = test
    const deadline = r.optional(given.expiryDeadline, (value) => {
      const { seconds, nanoSeconds } = r.record(value, 'expiryDeadline')
      const stamp = {
        seconds: r.whole(seconds, 'expiryDeadline.seconds', { min: 0, max: MAX_SECONDS }),
        nanoSeconds: r.whole(nanoSeconds, 'expiryDeadline.nanoSeconds', { min: 0, max: 999_999_999 }),
      }
      if (millisecondsOf(stamp) <= nowMs) r.fault('expiryDeadline', 'is over')
      return stamp
    })
    if (deadline) parsed.expiryDeadline = deadline
    return parsed
  })
  const { callbackReference } = subscription
  if (callbackReference === undefined) {
    throw new ShoalError('USAGE', 'notifications go to a callbackReference only; there are no websockets', {
      details: { status: 422 },
    })
  }
  return { ...subscription, callbackReference }
}

export function millisecondsOf({ seconds, nanoSeconds }: TimeStamp): number {
  return seconds * 1000 + Math.floor(nanoSeconds / 1e6)
}

export function timeStamp(ms: number): TimeStamp {
  return { seconds: Math.floor(ms / 1000), nanoSeconds: (ms % 1000) * 1e6 }
}
