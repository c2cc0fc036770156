import type { Member, MemberState, PeerId } from '../../types.ts'
import { createGossip } from './gossip.ts'
import { isNewer, rankOf, type Stamp, stampOf } from './record.ts'
import { createTable } from './table.ts'

/** This node's record and those of all others, and the news about them that is still to be told. */
export interface Roster {
  readonly self: Member
  get(id: PeerId): Member | undefined
  /** All but self. */
  others(): IterableIterator<Member>
  readonly size: number
  /** Raised by every change. */
  readonly version: number
  /** Takes in what a peer says, about this node as well: a false rumour is refuted by a higher incarnation. */
  accept(members: readonly Member[], from: PeerId): void
  /** This node's own verdict on a member. */
  declare(id: PeerId, state: MemberState): void
  /** Changes this node's own record and makes it known. */
  announce(change: Partial<Pick<Member, 'addrs' | 'registry' | 'api'>>): void
  /** From now on this node has left, whatever others say. */
  leave(): void
  remove(id: PeerId): void
  digest(): string
  stamps(): Stamp[]
  /** What is newer here than in the other's table, and what the other has that is newer or unknown here. */
  compare(stamps: readonly Stamp[], from: PeerId): { newer: Member[]; wanted: PeerId[] }
  /** News to put on a message to the peer; what is wrong with the peer itself first, so that it can refute. */
  newsFor(peer: PeerId, count: number): Member[]
  /** News since the last call. */
  freshNews(): { member: Member; from: PeerId | undefined }[]
  /** True when there is news that has not been told widely. */
  readonly talkative: boolean
}

export function createRoster(options: {
  self: Member
  /** True when the member is suspect, had its chance to refute it, and was not heard. */
  doomed(id: PeerId): boolean
  onUpdate(member: Member, previous: Member | undefined): void
}): Roster {
  const { doomed, onUpdate } = options
  const table = createTable()
  const gossip = createGossip()
  let self = options.self
  let selfVersion = 0

  const setSelf = (next: Member): void => {
    self = next
    selfVersion++
    gossip.add(next)
    onUpdate(next, next)
  }

  const refute = (incarnation: number): void => {
    if (self.state !== 'left') setSelf({ ...self, incarnation: incarnation + 1 })
  }

  const take = (member: Member, from?: PeerId): void => {
    const known = table.get(member.id)
    if (!table.apply(member)) return
    gossip.add(member, from)
    onUpdate(member, known)
  }

  const acceptOne = (member: Member, from: PeerId): void => {
    if (member.id === self.id) {
      if (isNewer(member.incarnation, rankOf(member.state), self)) refute(member.incarnation)
      return
    }
    const known = table.get(member.id)
    const live = known !== undefined && (known.state === 'alive' || known.state === 'suspect')
    if (live && member.state === 'dead' && !doomed(member.id)) {
      // A death is announced by a suspicion. This may be the stale verdict of a node that was cut off: the member gets
      // its chance to refute before anybody here lets go of it.
      take({ ...member, state: 'suspect' }, from)
    } else take(member, from)
  }

  return {
    get self() {
      return self
    },
    get size() {
      return table.size
    },
    get version() {
      return table.version + selfVersion
    },
    get talkative() {
      return gossip.pending > 0
    },
    get: (id) => (id === self.id ? self : table.get(id)),
    others: () => table.values(),
    accept(members, from) {
      for (const member of members) acceptOne(member, from)
    },
    declare(id, state) {
      const known = table.get(id)
      if (known !== undefined) take({ ...known, state })
    },
    announce(change) {
      setSelf({ ...self, ...change, incarnation: self.incarnation + 1 })
    },
    leave() {
      if (self.state !== 'left') setSelf({ ...self, state: 'left' })
    },
    remove: (id) => table.remove(id),
    digest: () => table.digest(self),
    stamps: () => [stampOf(self), ...[...table.values()].map(stampOf)],
    compare(stamps, from) {
      const wanted: PeerId[] = []
      const newer: Member[] = []
      const seen = new Set<PeerId>()
      for (const [id, incarnation, rank] of stamps) {
        seen.add(id)
        if (id === self.id) {
          if (isNewer(incarnation, rank, self)) refute(incarnation)
          if (isNewer(self.incarnation, rankOf(self.state), { incarnation, state: stateAt(rank) }))
            newer.push(self)
          continue
        }
        const known = table.get(id)
        if (known === undefined || isNewer(incarnation, rank, known)) wanted.push(id)
        else if (isNewer(known.incarnation, rankOf(known.state), { incarnation, state: stateAt(rank) })) {
          newer.push(known)
        }
      }
      for (const member of [self, ...table.values()]) {
        // Who asks knows itself best; a rumour about it is told all the same, for it to refute.
        if (!seen.has(member.id) && member.id !== from) newer.push(member)
      }
      return { newer, wanted }
    },
    newsFor(peer, count) {
      const news = gossip.take(count, table.size)
      const known = table.get(peer)
      if (known !== undefined && known.state !== 'alive' && !news.includes(known)) news.unshift(known)
      return news
    },
    freshNews: () => gossip.fresh(),
  }
}

function stateAt(rank: number): MemberState {
  return (['alive', 'suspect', 'dead', 'left'] as const)[rank] ?? 'alive'
}
