import { ShoalError } from '../../base/index.ts'
import type { Member, Membership, PeerId, SharedRecords } from '../../manager/index.ts'
import { member, type Reader } from './fields.ts'

/** Elements of a civic address by their types in RFC 4776, section 3.4: the name of a place, and a unit in it. */
const CA_NAME = 23
const CA_UNIT = 26

/** ETSI MEC 016, 6.5.2. */
export interface LocationConstraints {
  countryCode?: string
  civicAddressElement?: { caType: number; caValue: string }[]
  /** A polygon of RFC 7946: rings of [longitude, latitude], the outer one first. */
  area?: { type?: 'Polygon'; coordinates: number[][][] }
}

/** Where a node is, as far as its operator told it. */
export interface Place {
  /** ISO 3166-1 alpha-2; ZZ, which no country has, where nobody told. */
  country: string
  /** Degrees. */
  position?: { latitude: number; longitude: number }
}

/** `DE` or `DE@52.52,13.40`. @throws CONFIG */
export function parsePlace(text: string): Place {
  const match = /^([A-Z]{2})(?:@(-?\d{1,2}(?:\.\d+)?),(-?\d{1,3}(?:\.\d+)?))?$/.exec(text)
  const [latitude, longitude] = [Number(match?.[2] ?? 0), Number(match?.[3] ?? 0)]
  if (!match || Math.abs(latitude) > 90 || Math.abs(longitude) > 180) {
    throw new ShoalError('CONFIG', `not a place (such as DE or DE@52.52,13.40): ${text}`)
  }
  return match[2] === undefined
    ? { country: match[1]! }
    : { country: match[1]!, position: { latitude, longitude } }
}

function readRing(r: Reader, value: unknown, field: string): number[][] {
  const ring = r.list(value, field, { min: 4, max: 256 }, (item, at) => {
    const fits =
      Array.isArray(item) &&
      (item.length === 2 || item.length === 3) &&
      item.every((number) => typeof number === 'number' && Number.isFinite(number))
    if (!fits) r.fault(at, 'must be a position: longitude and latitude')
    return fits ? (item as number[]) : [0, 0]
  })
  const [first, last] = [ring[0], ring.at(-1)]
  if (first && last && (first[0] !== last[0] || first[1] !== last[1])) {
    r.fault(field, 'must end where it begins')
  }
  return ring
}

export function readLocation(r: Reader, value: unknown, field: string): LocationConstraints {
  const { countryCode, civicAddressElement, area } = r.record(value, field)
  const location: LocationConstraints = {}
  if (countryCode !== undefined) {
    location.countryCode = r.text(countryCode, member(field, 'countryCode'), {
      max: 2,
      pattern: /^[A-Z]{2}$/,
      form: 'two capital letters',
    })
  } else if (area === undefined) {
    r.fault(member(field, 'countryCode'), 'is missing: it must be there where no area is')
  }
  if (civicAddressElement !== undefined) {
    const at = member(field, 'civicAddressElement')
    if (area !== undefined) r.fault(at, 'must not be there where an area is')
    location.civicAddressElement = r.list(civicAddressElement, at, { max: 32 }, (item, where) => {
      const { caType, caValue } = r.record(item, where)
      return {
        caType: r.whole(caType, member(where, 'caType'), { min: 0, max: 255 }),
        caValue: r.text(caValue, member(where, 'caValue'), { max: 255 }),
      }
    })
  }
  if (area !== undefined) {
    const at = member(field, 'area')
    const { type, coordinates } = r.record(area, at)
    if (type !== undefined && type !== 'Polygon') r.fault(member(at, 'type'), 'must be "Polygon"')
    location.area = {
      type: 'Polygon',
      coordinates: r.list(coordinates, member(at, 'coordinates'), { min: 1, max: 16 }, (item, where) =>
        readRing(r, item, where),
      ),
    }
    if (type === undefined) delete location.area.type
  }
  return location
}

/** Even-odd rule: M. Shimrat, "Algorithm 112: Position of point relative to polygon", CACM 5 (1962). */
function inRing(ring: number[][], { latitude: y, longitude: x }: NonNullable<Place['position']>): boolean {
  let inside = false
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [xi = 0, yi = 0] = ring[i]!
    const [xj = 0, yj = 0] = ring[j]!
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside
  }
  return inside
}

function fulfils(node: Member, place: Place, wanted: LocationConstraints): boolean {
  if (wanted.countryCode !== undefined && wanted.countryCode !== place.country) return false
  for (const { caType, caValue } of wanted.civicAddressElement ?? []) {
    const own = caType === CA_NAME ? [node.site] : caType === CA_UNIT ? [node.name, node.id] : []
    if (!own.includes(caValue)) return false
  }
  if (wanted.area === undefined) return true
  const { position } = place
  const [outer, ...holes] = wanted.area.coordinates
  return (
    position !== undefined &&
    outer !== undefined &&
    inRing(outer, position) &&
    !holes.some((hole) => inRing(hole, position))
  )
}

/** Where the nodes of the cluster are, in the terms of ETSI's location constraints. */
export interface Locations {
  /** A node's own. */
  of(peer: PeerId): LocationConstraints
  /** Those of all sites with a live node. */
  sites(): LocationConstraints[]
  /** Nodes at one of the places; undefined where none is named: every node will do. */
  within(wanted: LocationConstraints[]): PeerId[] | undefined
  close(): void
}

const PREFIX = 'mec/node/'

function isPlace(value: unknown): value is Place {
  const { country, position } = (value ?? {}) as Partial<Place>
  const fits =
    position === undefined || (Number.isFinite(position.latitude) && Number.isFinite(position.longitude))
  return typeof country === 'string' && /^[A-Z]{2}$/.test(country) && fits
}

/** Tells the cluster where this node is, and knows it of the others. */
export async function createLocations({
  records,
  members,
  own,
}: {
  records: SharedRecords
  members: Membership
  /** Undefined: this node's operator did not say. */
  own: Place | undefined
}): Promise<Locations> {
  const places = new Map<PeerId, Place>()
  const take = ({ key, value }: { key: string; value: unknown }): void => {
    if (isPlace(value)) places.set(key.slice(PREFIX.length), value)
    else places.delete(key.slice(PREFIX.length))
  }
  const stop = records.onChange(PREFIX, take)
  for await (const record of records.entries(PREFIX)) take(record)
  const key = PREFIX + members.self.id
  const known = (await records.get(key))?.value
  if (JSON.stringify(known) !== JSON.stringify(own)) await records.put(key, own, { copies: 1 })

  const live = (): Member[] => members.list().filter(({ state }) => state === 'alive' || state === 'suspect')
  /** A node that says nothing is where its site is. */
  const placeOf = (node: Member): Place => {
    const said = places.get(node.id)
    if (said) return said
    const neighbour = members.list().find(({ id, site }) => site === node.site && places.has(id))
    return { country: (neighbour && places.get(neighbour.id)?.country) ?? 'ZZ' }
  }
  const siteOf = (node: Member): LocationConstraints => ({
    countryCode: placeOf(node).country,
    civicAddressElement: [{ caType: CA_NAME, caValue: node.site }],
  })

  return {
    of(peer) {
      const node = members.find(peer)
      if (!node) return { countryCode: 'ZZ' }
      const site = siteOf(node)
      site.civicAddressElement?.push({ caType: CA_UNIT, caValue: node.name })
      return site
    },
    sites() {
      const byText = new Map(live().map((node) => [JSON.stringify(siteOf(node)), siteOf(node)]))
      return [...byText.values()]
    },
    within(wanted) {
      if (wanted.length === 0) return undefined
      return live()
        .filter((node) => wanted.some((one) => fulfils(node, placeOf(node), one)))
        .map(({ id }) => id)
    },
    close: stop,
  }
}
