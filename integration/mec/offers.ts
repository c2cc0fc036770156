import { createHash } from 'node:crypto'
import { ShoalError } from '../../base/index.ts'
import type { SharedRecord, SharedRecords } from '../../manager/index.ts'
import { readApp } from './app-body.ts'
import { member, type Reader, readBody } from './fields.ts'
import type { Offer } from './types.ts'

const PREFIX = 'mec/offer/'
const MAX_OFFERS = 1000

const FIELDS = [
  'appDId',
  'appName',
  'appProvider',
  'appSoftVersion',
  'appDVersion',
  'appDescription',
  'vendorId',
  'serviceCont',
  'devices',
  'application',
] as const

function readOffer(r: Reader, body: unknown): Offer {
  const given = r.record(body, '', FIELDS)
  const name = (field: (typeof FIELDS)[number], instead?: string): string =>
    r.text(given[field] ?? instead, field, { max: 32 })
  readApp(r, given.application, 'application')
  const offer: Offer = {
    appDId: '',
    appName: name('appName'),
    appProvider: name('appProvider'),
    appSoftVersion: name('appSoftVersion', '1.0'),
    appDVersion: name('appDVersion', '1.0'),
    appDescription: r.text(given.appDescription, 'appDescription', { max: 128 }),
    application: given.application,
  }
  const vendorId = r.optional(given.vendorId, (value) => r.text(value, 'vendorId', { max: 32 }))
  if (vendorId !== undefined) offer.vendorId = vendorId
  const serviceCont = r.optional(given.serviceCont, (value) => r.flag(value, 'serviceCont'))
  if (serviceCont !== undefined) offer.serviceCont = serviceCont
  const devices = r.optional(given.devices, (value) =>
    r.list(value, 'devices', { max: 1000 }, (item, at) => r.text(item, at, { max: 32 })),
  )
  if (devices) offer.devices = devices
  const { appProvider, appName, appSoftVersion, appDVersion } = offer
  offer.appDId =
    r.optional(given.appDId, (value) =>
      r.text(value, member('', 'appDId'), {
        max: 64,
        pattern: /^[A-Za-z0-9][A-Za-z0-9._-]*$/,
        form: 'letters, digits, dots, dashes and underscores',
      }),
    ) ??
    createHash('sha256')
      .update([appProvider, appName, appSoftVersion, appDVersion].join('\0'))
      .digest('hex')
      .slice(0, 32)
  return offer
}

/** Applications that the site offers to its devices: shared records, which an operator writes. */
export interface Offers {
  /** Adds one, or replaces the one with the same identifier. @throws USAGE | NO_QUORUM */
  add(body: unknown): Promise<Offer>
  remove(appDId: string): Promise<boolean>
  list(): Offer[]
  close(): void
}

export async function createOffers({ records }: { records: SharedRecords }): Promise<Offers> {
  const offers = new Map<string, Offer>()
  const take = ({ key, value }: SharedRecord): void => {
    const name = key.slice(PREFIX.length)
    offers.delete(name)
    try {
      // What another node wrote is looked at as what an operator writes here: it may be of another version.
      if (value !== undefined)
        offers.set(
          name,
          readBody((r) => readOffer(r, value)),
        )
    } catch {
      // It is not offered here.
    }
  }
  const stop = records.onChange(PREFIX, take)
  for await (const record of records.entries(PREFIX)) take(record)

  return {
    async add(body) {
      const offer = readBody((r) => readOffer(r, body))
      if (!offers.has(offer.appDId) && offers.size >= MAX_OFFERS) {
        throw new ShoalError('USAGE', `${MAX_OFFERS} applications are offered already`)
      }
      await records.put(PREFIX + offer.appDId, offer, { copies: 1 })
      return offer
    },
    async remove(appDId) {
      if (!offers.has(appDId)) return false
      await records.put(PREFIX + appDId, undefined, { copies: 1 })
      return true
    },
    list: () => [...offers.values()].sort((a, b) => a.appDId.localeCompare(b.appDId)),
    close: stop,
  }
}
