import type { Member, PeerId } from '../../types.ts'
import { hash32 } from './table.ts'

/** Sites up to this size are a full mesh. */
export const MESH = 10
const RINGS = 4
const FAR_PER_SITE = 2
const FAR_TOTAL = 8

/**
 * The members of the own site that this node watches. All of a small site; in a larger one the two beside it in each
 * of a few rings in which the members stand in different pseudo-random orders. It is symmetric (who watches is
 * watched), so each is watched by as many and one probe serves both ends; and the graph is an expander, so news
 * crosses a site of hundreds in about three hops.
 */
export function nearNeighbours(self: PeerId, others: readonly Member[]): Member[] {
  if (others.length < MESH) return [...others]
  const chosen = new Map<PeerId, Member>()
  for (let ring = 0; ring < RINGS; ring++) {
    const own = hash32(self, ring)
    let next: [number, Member] | undefined
    let previous: [number, Member] | undefined
    for (const member of others) {
      // Steps forward on the ring from this node to the other; zero is a hash collision, harmless.
      const ahead = (hash32(member.id, ring) - own) >>> 0
      if (next === undefined || ahead < next[0]) next = [ahead, member]
      if (previous === undefined || ahead > previous[0]) previous = [ahead, member]
    }
    for (const found of [next, previous]) if (found !== undefined) chosen.set(found[1].id, found[1])
  }
  return [...chosen.values()]
}

/**
 * A few members of other sites, to carry news over thin links: two a site, and of very many sites a few. Chosen by the
 * pair's hash, so the choice is stable, spread over both sites, and few connections cross.
 */
export function farNeighbours(self: PeerId, others: readonly Member[]): Member[] {
  const sites = new Map<string, [number, Member][]>()
  for (const member of others) {
    const best = sites.get(member.site) ?? []
    best.push([hash32(`${self} ${member.id}`, 0), member])
    best.sort((a, b) => a[0] - b[0])
    sites.set(member.site, best.slice(0, FAR_PER_SITE))
  }
  const all = [...sites.values()].flat().sort((a, b) => a[0] - b[0])
  return all.slice(0, FAR_TOTAL).map(([, member]) => member)
}
