import { ShoalError } from '../../base/index.ts'
import type { App, AppSpec } from '../offload/types.ts'
import { parseApp, readApp } from './app-body.ts'
import { bareAddress, checkTarget } from './callback-target.ts'
import type { AppInfo } from './context-body.ts'
import { exchange } from './exchange.ts'
import { readBody } from './fields.ts'
import type { LocationConstraints } from './location.ts'
import type { Offers } from './offers.ts'
import type { Call, Offer } from './types.ts'

const MAX_PACKAGE = 64 * 1024
const PACKAGE_MS = 5000
const MIB = 2 ** 20

export interface Filters {
  appName: string[]
  appProvider: string[]
  appSoftVersion: string[]
  vendorId: string[]
  serviceCont: boolean | undefined
}

/** An application that a device may ask for: what the site offers, and what it registered itself. */
interface Listed extends Omit<Offer, 'application' | 'devices'> {
  spec: AppSpec
}

function listedOffer({ application, devices: _devices, ...offer }: Offer): Listed {
  return { ...offer, spec: readBody((r) => readApp(r, application, 'application')) }
}

function listedApp(app: App): Listed {
  const { spec } = app
  return {
    appDId: app.id,
    appName: spec.name,
    appProvider: app.owner,
    appSoftVersion: '1.0',
    appDVersion: '1.0',
    appDescription: `Registered by ${app.owner}, in ${spec.pods.length} pod${spec.pods.length === 1 ? '' : 's'}`,
    spec,
  }
}

/** In whole mebibytes, as the standard counts. */
function megabytes(bytes: number): number {
  return Math.min(Math.ceil(bytes / MIB), 2 ** 32 - 1)
}

function entryOf(listed: Listed, appLocation: LocationConstraints[]): Record<string, unknown> {
  const { spec, vendorId, serviceCont, ...names } = listed
  const sum = (of: 'memory' | 'storage'): number => spec.pods.reduce((total, pod) => total + pod[of], 0)
  return {
    appInfo: {
      appDId: names.appDId,
      appName: names.appName,
      appProvider: names.appProvider,
      appSoftVersion: names.appSoftVersion,
      appDVersion: names.appDVersion,
      appDescription: names.appDescription,
      appLocation,
      appCharcs: {
        memory: megabytes(sum('memory')),
        storage: megabytes(sum('storage')),
        ...(spec.requiredDelayMs === undefined ? {} : { latency: Math.ceil(spec.requiredDelayMs) }),
        serviceCont: serviceCont ? 1 : 0,
      },
    },
    ...(vendorId === undefined ? {} : { vendorSpecificExt: { vendorId } }),
  }
}

/** What devices may ask for, and how a request's names lead to a description. */
export interface Catalogue {
  /** ETSI MEC 016, 6.2.2. */
  list(ue: string, own: App[], filters: Filters): Record<string, unknown>
  /**
   * The description that a request means: by appDId, by its package's address, or by its names.
   * @throws NOT_FOUND | USAGE | DENIED | UPSTREAM_… | TIMEOUT
   */
  resolve(call: Call, own: App[], info: AppInfo & { appDId?: string }, signal: AbortSignal): Promise<AppSpec>
}

export function createCatalogue({
  offers,
  sites,
  packageSources,
}: {
  offers: Offers
  /** Locations of the sites that there are. */
  sites: () => LocationConstraints[]
  /** Beginnings of URLs that packages may be fetched from, whoever names them. */
  packageSources: string[]
}): Catalogue {
  // With the slash at its end that makes a host's name whole.
  const allowedBeginnings = packageSources.map((url) => new URL(url).href)

  function visible(ue: string, own: App[]): Listed[] {
    const offered = offers.list().filter(({ devices }) => devices === undefined || devices.includes(ue))
    return [...offered.map(listedOffer), ...own.map(listedApp)]
  }

  /**
   * A device makes the edge fetch what it names, so that is let be little: a data: URI needs no fetching; http(s) goes to the device's own address,
   * where it keeps its images as well, and to where the operator lets it go.
   */
  async function fetchPackage(call: Call, source: string, signal: AbortSignal): Promise<AppSpec> {
    const data = /^data:application\/json(?:;charset=utf-8)?(;base64)?,(.*)$/is.exec(source)
    if (data) return parsePackage(data[1] ? Buffer.from(data[2]!, 'base64').toString() : decodeData(data[2]!))
    const allowLoopback = call.local
    const url = checkTarget(source, { allowLoopback })
    const allowed =
      bareAddress(url.hostname) === bareAddress(call.address) ||
      allowedBeginnings.some((beginning) => url.href.startsWith(beginning))
    if (!allowed) {
      throw new ShoalError(
        'DENIED',
        "a package is fetched from the device's own address or from where the operator allows it",
      )
    }
    const { status, text } = await exchange({
      method: 'GET',
      url: source,
      timeoutMs: PACKAGE_MS,
      maxAnswer: MAX_PACKAGE,
      allowLoopback,
      signal,
    })
    if (status !== 200) throw new ShoalError('UPSTREAM_STATUS', `the package's address answered ${status}`)
    return parsePackage(text)
  }

  return {
    list(ue, own, filters) {
      const has = (wanted: string[], value: string | undefined): boolean =>
        wanted.length === 0 || (value !== undefined && wanted.includes(value))
      const appLocation = sites()
      const fitting = visible(ue, own).filter(
        (one) =>
          has(filters.appName, one.appName) &&
          has(filters.appProvider, one.appProvider) &&
          has(filters.appSoftVersion, one.appSoftVersion) &&
          has(filters.vendorId, one.vendorId) &&
          (filters.serviceCont === undefined || filters.serviceCont === (one.serviceCont ?? false)),
      )
      return { appList: fitting.map((one) => entryOf(one, appLocation)) }
    },
    async resolve(call, own, info, signal) {
      const all = visible(call.ue, own)
      if (info.appDId !== undefined) {
        const found = all.find(({ appDId }) => appDId === info.appDId)
        if (found) return found.spec
        if (info.appPackageSource === undefined) {
          throw new ShoalError('NOT_FOUND', `no application ${info.appDId} is available to this device`)
        }
      }
      if (info.appPackageSource !== undefined) return fetchPackage(call, info.appPackageSource, signal)
      const named = all.filter(
        (one) =>
          one.appName === info.appName &&
          one.appProvider === info.appProvider &&
          one.appDVersion === info.appDVersion &&
          (info.appSoftVersion === undefined || one.appSoftVersion === info.appSoftVersion),
      )
      if (named.length === 1) return named[0]!.spec
      const detail =
        named.length === 0
          ? 'no application of these names is available to this device: give appDId or appPackageSource'
          : 'several applications have these names: give appDId'
      throw new ShoalError(named.length === 0 ? 'NOT_FOUND' : 'USAGE', detail)
    },
  }
}

function decodeData(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch (cause) {
    throw new ShoalError('USAGE', 'the package is no text', { cause })
  }
}

function parsePackage(text: string): AppSpec {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch (cause) {
    throw new ShoalError('USAGE', 'the package is no JSON', { cause })
  }
  return parseApp(body)
}
