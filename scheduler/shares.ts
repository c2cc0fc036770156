import { hasBit } from './bits.ts'
import type { Holder } from './holders.ts'

/** Blobs of fewer blocks are shown whole: an extra round trip would cost more than copies do. */
const LARGE = 16
/** A share is widened until it holds at least this many blocks that the asker lacks. */
const ENOUGH = 8

/**
 * What an asker is shown of a complete holder. If everybody saw all of it, all would ask it for the same blocks, as what
 * others have in flight is not known. So each block that no puller has yet is shown to one puller, who passes it on; a
 * puller that has done its share is shown others' too, and the shares change with every epoch, in case somebody is slow.
 * The idea is the super-seeding of BitTorrent (J. Hoffman, BEP 16, 2008), done by the coordinator.
 */
export function shareOf(
  asker: Holder,
  holder: Holder,
  site: {
    blocks: number
    /** How many nodes have the block. */
    held: (index: number) => number
    /** The complete holders, and the pullers that they are shared by, in an order that lasts. */
    complete: readonly Holder[]
    pullers: readonly Holder[]
    epoch: number
  },
): Uint8Array {
  const { blocks, held, complete, pullers, epoch } = site
  const place = pullers.indexOf(asker)
  const source = complete.indexOf(holder)
  if (blocks < LARGE || pullers.length < 2 || complete.length >= pullers.length || place < 0 || source < 0) {
    return holder.have
  }
  const turns = new Map<number, number>()
  for (let index = 0; index < blocks; index++) {
    if (hasBit(asker.have, index)) continue
    const draw = (Math.imul(index + 1, 0x9e3779b1) >>> 8) + epoch
    const turn = (Math.floor(draw / complete.length) + place) % pullers.length
    const elsewhere = (held(index) > complete.length ? 2 : 0) + (draw % complete.length === source ? 0 : 1)
    turns.set(index, elsewhere * pullers.length + turn)
  }
  const widths = [...turns.values()].sort((a, b) => a - b)
  const widest = widths[Math.min(ENOUGH, widths.length) - 1] ?? 0
  const share = holder.have.slice()
  for (const [index, turn] of turns) {
    if (turn > widest) share[index >> 3]! &= ~(1 << (index & 7))
  }
  return share
}
