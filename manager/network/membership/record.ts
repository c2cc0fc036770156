import { ShoalError } from '../../../base/index.ts'
import type { Member, MemberState, PeerId } from '../../types.ts'

/** A member as it travels: id, name, site, addrs, state's rank, incarnation, registry, api. */
export type MemberRecord = [string, string, string, string[], number, number, string | null, string | null]

/** What decides between two records of one member, in the same order as their comparison: see `isNewer`. */
export type Stamp = [id: string, incarnation: number, rank: number]

const STATES: readonly MemberState[] = ['alive', 'suspect', 'dead', 'left']
const MAX_RECORDS = 4096
const MAX_ADDRESSES = 16
/** Leaves room to refute: an incarnation must never run out of safe integers. */
const MAX_INCARNATION = 2 ** 52

export function rankOf(state: MemberState): number {
  return STATES.indexOf(state)
}

/**
 * SWIM's precedence: the higher incarnation wins, and within one the worse state does, since only the member itself
 * raises its incarnation. It is a total order, so tables that have seen the same records are equal.
 */
export function isNewer(
  incarnation: number,
  rank: number,
  than: Pick<Member, 'incarnation' | 'state'>,
): boolean {
  return incarnation === than.incarnation ? rank > rankOf(than.state) : incarnation > than.incarnation
}

export function toRecord(member: Member): MemberRecord {
  const { id, name, site, addrs, state, incarnation, registry, api } = member
  return [id, name, site, addrs, rankOf(state), incarnation, registry ?? null, api ?? null]
}

export function stampOf(member: Member): Stamp {
  return [member.id, member.incarnation, rankOf(member.state)]
}

/** @throws PROTOCOL for anything but a list of well-formed records */
export function parseRecords(value: unknown): Member[] {
  return list(value, MAX_RECORDS).map(parseRecord)
}

/** @throws PROTOCOL for anything but a list of well-formed stamps */
export function parseStamps(value: unknown): Stamp[] {
  return list(value, MAX_RECORDS).map((stamp) => {
    const [id, incarnation, rank] = list(stamp, 3)
    stateOf(rank)
    return [parsePeerId(id), parseIncarnation(incarnation), rank as number]
  })
}

/** @throws PROTOCOL for anything but a list of peer IDs */
export function parsePeerIds(value: unknown): PeerId[] {
  return list(value, MAX_RECORDS).map(parsePeerId)
}

/** @throws PROTOCOL for anything that does not look like a peer ID */
export function parsePeerId(value: unknown): PeerId {
  if (typeof value === 'string' && /^[1-9A-HJ-NP-Za-km-z]{1,80}$/.test(value)) return value
  throw malformed('a peer ID')
}

function parseRecord(value: unknown): Member {
  const [id, name, site, addrs, rank, incarnation, registry, api] = list(value, 8)
  const member: Member = {
    id: parsePeerId(id),
    name: text(name, 253),
    site: text(site, 128),
    addrs: list(addrs, MAX_ADDRESSES).map((address) => text(address, 300)),
    state: stateOf(rank),
    incarnation: parseIncarnation(incarnation),
  }
  if (registry !== null && registry !== undefined) member.registry = text(registry, 300)
  if (api !== null && api !== undefined) member.api = text(api, 300)
  return member
}

function parseIncarnation(value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < MAX_INCARNATION) {
    return value as number
  }
  throw malformed('an incarnation')
}

function stateOf(rank: unknown): MemberState {
  const state = typeof rank === 'number' ? STATES[rank] : undefined
  if (state === undefined) throw malformed('a state')
  return state
}

function text(value: unknown, maxLength: number): string {
  if (typeof value === 'string' && value.length <= maxLength) return value
  throw malformed('a text')
}

function list(value: unknown, maxLength: number): unknown[] {
  if (Array.isArray(value) && value.length <= maxLength) return value
  throw malformed('a list')
}

function malformed(what: string): ShoalError {
  return new ShoalError('PROTOCOL', `malformed membership message: not ${what}`)
}
