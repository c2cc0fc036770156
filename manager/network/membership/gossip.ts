import type { Member, PeerId } from '../../types.ts'

/** News that still has to be told. */
export interface Gossip {
  /** `from`: who told it, and so need not hear it again. */
  add(member: Member, from?: PeerId): void
  /** What to put on the next message: the least told first, each counted as told once more. */
  take(count: number, audience: number): Member[]
  /** News since the last call, for telling the neighbours at once. */
  fresh(): { member: Member; from: PeerId | undefined }[]
  readonly pending: number
}

/**
 * Each piece of news rides on 3 * log2(audience) messages, SWIM's bound for reaching everybody with high probability;
 * what gets lost all the same is repaired by comparing digests.
 */
export function createGossip(): Gossip {
  const told = new Map<PeerId, { member: Member; times: number }>()
  let news = new Map<PeerId, { member: Member; from: PeerId | undefined }>()
  return {
    add(member, from) {
      told.set(member.id, { member, times: 0 })
      news.set(member.id, { member, from })
    },
    take(count, audience) {
      if (told.size === 0) return []
      const limit = 3 * Math.ceil(Math.log2(audience + 2))
      const chosen = [...told.values()].sort((a, b) => a.times - b.times).slice(0, count)
      for (const item of chosen) {
        item.times++
        if (item.times >= limit) told.delete(item.member.id)
      }
      return chosen.map(({ member }) => member)
    },
    fresh() {
      if (news.size === 0) return []
      const all = [...news.values()]
      news = new Map()
      return all
    },
    get pending() {
      return told.size
    },
  }
}
