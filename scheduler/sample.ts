import { offersBits } from './bits.ts'
import type { Holder } from './holders.ts'

/**
 * Whom a node should talk to: everybody in a small site. In a large one the ledger keeps a random graph in which every node
 * has about `limit` neighbours on both sides of each edge, so that news spread in a few hops and no holder is asked by all
 * at once. A newcomer to a full graph takes the places on both ends of an edge (C. Law and K.-Y. Siu, "Distributed
 * Construction of Random Expander Networks", INFOCOM 2003, insert by the like splitting of edges).
 */
export function sampleHolders(
  asker: Holder,
  list: readonly Holder[],
  limit: number,
  alive: (holder: Holder) => boolean,
  random: () => number,
): Holder[] {
  const worth = (other: Holder): boolean =>
    (other.pulling && alive(other)) || offersBits(other.have, asker.have)
  if (list.length - 1 <= limit) return list.filter((other) => other !== asker && worth(other))

  const own = asker.neighbours
  for (const other of own) if (!worth(other)) unlink(asker, other)
  for (let tries = 4 * limit; own.size < limit && tries > 0; tries--) {
    const other = pick(list, random)
    if (other === asker || own.has(other) || !worth(other)) continue
    if (other.neighbours.size >= limit) {
      if (own.size + 2 > limit) continue
      const third = pick([...other.neighbours], random)
      if (third === asker || own.has(third) || !worth(third)) continue
      unlink(other, third)
      link(asker, third)
    }
    link(asker, other)
  }
  if (![...own].some((other) => offersBits(other.have, asker.have))) addSource(asker, list, limit, random)
  return [...own]
}

/** Nobody it knows has anything for it: one that has takes the place of one that has not. */
function addSource(asker: Holder, list: readonly Holder[], limit: number, random: () => number): void {
  const from = Math.floor(random() * list.length)
  for (let i = 0; i < list.length; i++) {
    const other = list[(from + i) % list.length]!
    if (other === asker || other.neighbours.size > 2 * limit || !offersBits(other.have, asker.have)) continue
    if (asker.neighbours.size >= limit) unlink(asker, pick([...asker.neighbours], random))
    link(asker, other)
    return
  }
}

function pick<T>(list: readonly T[], random: () => number): T {
  return list[Math.floor(random() * list.length)]!
}

function link(a: Holder, b: Holder): void {
  a.neighbours.add(b)
  b.neighbours.add(a)
}

function unlink(a: Holder, b: Holder): void {
  a.neighbours.delete(b)
  b.neighbours.delete(a)
}
