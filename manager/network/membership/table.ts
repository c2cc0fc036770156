import type { Member, PeerId } from '../../types.ts'
import { isNewer, rankOf } from './record.ts'

/** All that is known of the other members, the dead included. */
export interface Table {
  get(id: PeerId): Member | undefined
  values(): IterableIterator<Member>
  readonly size: number
  /** Takes the record in if it is newer than what is known. True when it was. Members are never changed in place. */
  apply(member: Member): boolean
  remove(id: PeerId): void
  /**
   * Equal on two nodes when they agree on who is alive or suspect, and in which incarnation, `self` included. The dead
   * do not count, as nodes forget them at different times.
   */
  digest(self: Member): string
  /** Raised by every change. */
  readonly version: number
}

export function createTable(): Table {
  const members = new Map<PeerId, Member>()
  let version = 0
  let high = 0
  let low = 0

  /** Exclusive or: adding and removing a record are the same, in any order. */
  const toggle = (member: Member): void => {
    const [a, b] = hashOf(member)
    high ^= a
    low ^= b
  }

  return {
    get: (id) => members.get(id),
    values: () => members.values(),
    get size() {
      return members.size
    },
    get version() {
      return version
    },
    apply(member) {
      const known = members.get(member.id)
      if (known !== undefined) {
        if (!isNewer(member.incarnation, rankOf(member.state), known)) return false
        toggle(known)
      }
      members.set(member.id, member)
      toggle(member)
      version++
      return true
    },
    remove(id) {
      const known = members.get(id)
      if (known === undefined) return
      toggle(known)
      members.delete(id)
      version++
    },
    digest(self) {
      const [a, b] = hashOf(self)
      return `${((high ^ a) >>> 0).toString(36)}-${((low ^ b) >>> 0).toString(36)}`
    },
  }
}

function hashOf(member: Member): [number, number] {
  if (member.state === 'dead' || member.state === 'left') return [0, 0]
  const text = `${member.id} ${member.incarnation} ${member.state}`
  return [hash32(text, 0x811c9dc5), hash32(text, 0x01000193)]
}

/** FNV-1a with another start, stirred at the end as MurmurHash3 does. Not against adversaries: they hold the key. */
export function hash32(text: string, seed: number): number {
  let hash = seed
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
