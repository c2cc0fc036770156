import { member, type Reader, readBody } from './fields.ts'
import { type LocationConstraints, readLocation } from './location.ts'

/** What ETSI MEC 016, 6.2.3 calls an application context, as a device asks for it. */
export interface ContextRequest {
  associateDevAppId: string
  appInfo: AppInfo & {
    appDId?: string
    /** What was asked for: where instances shall be. */
    userAppInstanceInfo: { appLocation?: LocationConstraints }[]
  }
  callbackReference?: string
  appLocationUpdates?: boolean
  appAutoInstantiation?: boolean
}

export interface AppInfo {
  appName: string
  appProvider: string
  appDVersion: string
  appSoftVersion?: string
  appDescription?: string
  appPackageSource?: string
}

const SHORT = { max: 32 }
/** The standard gives no limit for these; a limit there must be. */
const LONG = { max: 128 }

function readAppInfo(r: Reader, given: Record<string, unknown>, at: (name: string) => string): AppInfo {
  const info: AppInfo = {
    appName: r.text(given.appName, at('appName'), SHORT),
    appProvider: r.text(given.appProvider, at('appProvider'), SHORT),
    appDVersion: r.text(given.appDVersion, at('appDVersion'), SHORT),
  }
  const soft = r.optional(given.appSoftVersion, (value) => r.text(value, at('appSoftVersion'), SHORT))
  if (soft !== undefined) info.appSoftVersion = soft
  const description = r.optional(given.appDescription, (value) => r.text(value, at('appDescription'), LONG))
  if (description !== undefined) info.appDescription = description
  const source = r.optional(given.appPackageSource, (value) => readSource(r, value, at('appPackageSource')))
  if (source !== undefined) info.appPackageSource = source
  return info
}

/** A data: URI may be as long as the body lets it. */
function readSource(r: Reader, value: unknown, field: string): string {
  const text = r.text(value, field, { max: 65_536 })
  if (text !== '' && !URL.canParse(text)) r.fault(field, 'must be a URI')
  return text
}

/**
 * An application context of a request. Members that only answers have (instances' identifiers and addresses) are taken in an update, where
 * a device sends back what it got, and count for nothing. Members that the standard does not know are ignored, as it wants.
 * @throws USAGE
 */
export function parseContext(body: unknown, { contextId }: { contextId?: string } = {}): ContextRequest {
  return readBody((r) => {
    const given = r.record(body, '')
    if (contextId === undefined && given.contextId !== undefined) {
      r.fault('contextId', 'must not be there: it is assigned by the answer')
    }
    if (contextId !== undefined && given.contextId !== undefined && given.contextId !== contextId) {
      r.fault('contextId', "must be the path's")
    }
    const info = r.record(given.appInfo, 'appInfo')
    const at = (name: string): string => member('appInfo', name)
    const request: ContextRequest = {
      associateDevAppId: r.text(given.associateDevAppId, 'associateDevAppId', SHORT),
      appInfo: {
        ...readAppInfo(r, info, at),
        userAppInstanceInfo: r.list(
          info.userAppInstanceInfo,
          at('userAppInstanceInfo'),
          { min: 1, max: 16 },
          (item, where) => readInstance(r, item, where, contextId !== undefined),
        ),
      },
    }
    const appDId = r.optional(info.appDId, (value) => r.text(value, at('appDId'), LONG))
    if (appDId !== undefined) request.appInfo.appDId = appDId
    const callback = r.optional(given.callbackReference, (value) => r.uri(value, 'callbackReference'))
    if (callback !== undefined) request.callbackReference = callback
    for (const name of ['appLocationUpdates', 'appAutoInstantiation'] as const) {
      const flag = r.optional(given[name], (value) => r.flag(value, name))
      if (flag !== undefined) request[name] = flag
    }
    if (request.appLocationUpdates && request.appAutoInstantiation) {
      r.fault('appAutoInstantiation', 'must not be true where appLocationUpdates is')
    }
    return request
  })
}

function readInstance(
  r: Reader,
  item: unknown,
  field: string,
  update: boolean,
): { appLocation?: LocationConstraints } {
  const { appInstanceId, referenceURI, appLocation } = r.record(item, field)
  if (!update) {
    if (appInstanceId !== undefined) r.fault(member(field, 'appInstanceId'), 'is only for answers')
    if (referenceURI !== undefined) r.fault(member(field, 'referenceURI'), 'is only for answers')
  }
  if (appLocation === undefined) return {}
  return { appLocation: readLocation(r, appLocation, member(field, 'appLocation')) }
}

/** ETSI MEC 016, 6.2.4. @throws USAGE */
export function parseAvailability(body: unknown): { associateDevAppId: string; appInfo: AppInfo } {
  return readBody((r) => {
    const given = r.record(body, '')
    const info = r.record(given.appInfo, 'appInfo')
    return {
      associateDevAppId: r.text(given.associateDevAppId, 'associateDevAppId', SHORT),
      appInfo: readAppInfo(r, info, (name) => member('appInfo', name)),
    }
  })
}
