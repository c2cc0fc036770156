import type { App, AppSpec } from '../offload/types.ts'
import type { ContextRequest } from './context-body.ts'
import { type Fault, malformed } from './fields.ts'
import { instancesOf } from './instances.ts'
import type { LocationConstraints } from './location.ts'

/** An application context, and how far it is. */
export interface StoredContext {
  id: string
  ue: string
  request: ContextRequest
  spec: AppSpec
  /** Made before the application is, so that a crash leaves neither two nor one that nobody knows. */
  appId: string
  allowLoopback: boolean
  /**
   * creating: the device has no answer yet; waiting: for room at one of its locations; placed: the application is to run;
   * deleting: it is to be gone.
   */
  phase: 'creating' | 'waiting' | 'placed' | 'deleting'
  /** Addresses that the device knows, by pod. */
  told: Record<string, string>
  /** Locations, as JSON, of which a device that waits was told that there is room. */
  toldPlaces: string[]
  /** Why it came to nothing. */
  reason?: string
  createdAt: number
}

/** Its device knows an address: the application has run. */
export const ran = ({ told }: StoredContext): boolean => Object.keys(told).length > 0

/** Where its instances shall be: at any of these, anywhere where there are none. */
export function wantedPlaces({ request }: StoredContext): LocationConstraints[] {
  return request.appInfo.userAppInstanceInfo.flatMap(({ appLocation }) => (appLocation ? [appLocation] : []))
}

/** A context as its device sees it: what it asked for, and its instances as they are. */
export function contextView({ id, request }: StoredContext, app: App | undefined): Record<string, unknown> {
  const instances = app ? instancesOf(app) : []
  const asked = request.appInfo.userAppInstanceInfo
  const userAppInstanceInfo = Array.from({ length: Math.max(instances.length, asked.length) }, (_, i) => {
    const instance = instances[i]
    const appLocation = asked[i]?.appLocation
    return {
      ...(instance ? { appInstanceId: instance.appInstanceId } : {}),
      ...(instance?.referenceURI === undefined ? {} : { referenceURI: instance.referenceURI }),
      ...(appLocation === undefined ? {} : { appLocation }),
    }
  })
  return { contextId: id, ...request, appInfo: { ...request.appInfo, userAppInstanceInfo } }
}

/** A context's update may change its callback and its locations. @throws USAGE */
export function refuseOtherChanges(old: ContextRequest, asked: ContextRequest): void {
  const faults: Fault[] = []
  const same = (field: string, before: unknown, after: unknown): void => {
    if (after !== undefined && after !== before) faults.push({ field, detail: 'cannot be updated' })
  }
  same('associateDevAppId', old.associateDevAppId, asked.associateDevAppId)
  same('appLocationUpdates', old.appLocationUpdates ?? false, asked.appLocationUpdates)
  same('appAutoInstantiation', old.appAutoInstantiation ?? false, asked.appAutoInstantiation)
  for (const name of [
    'appName',
    'appProvider',
    'appDVersion',
    'appDId',
    'appSoftVersion',
    'appDescription',
    'appPackageSource',
  ] as const) {
    same(`appInfo.${name}`, old.appInfo[name], asked.appInfo[name])
  }
  if (faults.length > 0) throw malformed(faults)
}
