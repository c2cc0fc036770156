import { hash32 } from './rendezvous.ts'
import type { PeerId } from './types.ts'

/** A node that keeps blocks, and the weight of its part: the space that it offers, in whatever unit. */
export interface PlacementNode {
  id: PeerId
  weight: number
}

export interface PlacedBlob {
  digest: string
  size: number
  copies: number
}

/** Loads end up within this part of what is fair, or within one block of it where that is more. */
const TOLERANCE = 0.145
/** Which part of the tolerance is used up when a load is brought back into it: the less is corrected, the less moves later. */
const TARGET = 0.9
const ROUNDS = 150
/** Blocks times nodes that are looked at for the weights, 8 bytes each. Far beyond, chance is fair enough by itself. */
const MAX_CELLS = 2 ** 20

/**
 * For each of a blob's blocks the nodes that keep it, `copies` of them or all, best first. The same on every node, whatever the
 * order of `nodes`; a node that comes or goes moves only what it gains or had.
 *
 * Weighted rendezvous hashing: the score of a node is -w / ln(h), h uniform in (0, 1) and w the weight (C. Schindelhauer and
 * G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005). A blob has so few blocks that chance alone would be unfair. So
 * a node's h over the blob's blocks are not drawn one by one, but are evenly spaced numbers in an order and with an offset
 * drawn for the node and the blob (systematic sampling), which halves the variance and makes no node depend on another.
 */
export function placeBlob(
  digest: string,
  count: number,
  nodes: readonly PlacementNode[],
  copies: number,
): PeerId[][] {
  const able = usable(nodes)
  const wanted = Math.min(copies, able.length)
  const draw = drawer(digest, count)
  // Node by node: of all blocks and nodes at once, 10 GB over 1,000 nodes would be 80 MB.
  const found = lowest(count, wanted)
  for (const [at, { id, weight }] of able.entries()) {
    const cost = draw(id)
    for (let index = 0; index < count; index++) found.offer(index, cost[index]! / weight, at)
  }
  return Array.from({ length: count }, (_, index) => Array.from(found.of(index), (at) => able[at]!.id))
}

/**
 * The nodes with weights that make their loads fair, for `placeBlob`: within 15 % of what the weight is worth, or one block, summed
 * over the blobs. A node whose load is too high gets a little less weight, one whose load is too low a little more, until all
 * are within the tolerance. As little as possible is corrected: two sets of nodes that differ by one get nearly the same
 * weights, so that little more moves than must (see docs/scheduler.md). Also sets right that the second of two copies
 * favours the light nodes.
 */
export function balanceWeights(
  blobs: readonly PlacedBlob[],
  nodes: readonly PlacementNode[],
  blockSize: number,
): PlacementNode[] {
  const able = usable(nodes)
  const parts = []
  let cells = 0
  for (const blob of [...blobs].sort((a, b) => order(a.digest, b.digest))) {
    const count = Math.ceil(blob.size / blockSize)
    cells += count * able.length
    if (cells > MAX_CELLS && parts.length > 0) break
    parts.push({ ...blob, count, cost: costs(blob.digest, count, able) })
  }
  const fair = able.map(() => 0)
  for (const { size, copies } of parts) {
    for (const [at, part] of fairParts(able, copies).entries()) fair[at]! += part * size
  }
  const slack = fair.map((bytes) => Math.max(TOLERANCE * bytes, blockSize))
  const weights = able.map((node) => node.weight)
  const chosen: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const loads = able.map(() => 0)
    for (const { size, copies, count, cost } of parts) {
      for (let index = 0; index < count; index++) {
        choose(cost, index * able.length, weights, copies, chosen)
        const bytes = Math.min(blockSize, size - index * blockSize)
        for (const at of chosen) loads[at]! += bytes
      }
    }
    let settled = true
    for (let at = 0; at < able.length; at++) {
      const off = loads[at]! - fair[at]!
      if (Math.abs(off) <= slack[at]!) continue
      settled = false
      const wanted = fair[at]! + Math.sign(off) * TARGET * slack[at]!
      // A quarter of the way (as a power), since all the others move at the same time.
      weights[at]! *= Math.sqrt(Math.sqrt(Math.max(wanted, 1) / Math.max(loads[at]!, blockSize / 2)))
    }
    if (settled) break
  }
  return able.map(({ id }, at) => ({ id, weight: weights[at]! }))
}

/**
 * Which part of a blob each node would hold if all were exactly fair: in proportion to the weights, but nobody holds
 * a block twice, so that what is too much for one goes to the others. The parts add up to `copies`.
 */
export function fairParts(nodes: readonly PlacementNode[], copies: number): number[] {
  const parts = nodes.map(() => 0)
  let open = nodes.map((_, at) => at).filter((at) => nodes[at]!.weight > 0)
  let left = Math.min(copies, open.length)
  while (open.length > 0) {
    const total = open.reduce((sum, at) => sum + nodes[at]!.weight, 0)
    const full = open.filter((at) => (left * nodes[at]!.weight) / total >= 1)
    if (full.length === 0) {
      for (const at of open) parts[at] = (left * nodes[at]!.weight) / total
      break
    }
    for (const at of full) parts[at] = 1
    left -= full.length
    open = open.filter((at) => !full.includes(at))
  }
  return parts
}

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

function usable(nodes: readonly PlacementNode[]): PlacementNode[] {
  return nodes.filter((node) => node.weight > 0).sort((a, b) => order(a.id, b.id))
}

/** -ln(h) of each block and node, block by block. */
function costs(digest: string, count: number, nodes: readonly PlacementNode[]): Float64Array {
  const cost = new Float64Array(count * nodes.length)
  const draw = drawer(digest, count)
  for (const [at, { id }] of nodes.entries()) {
    for (const [index, own] of draw(id).entries()) cost[index * nodes.length + at] = own
  }
  return cost
}

/** Gives -ln(h) of each block for a node; valid until the next one is asked for. */
function drawer(digest: string, count: number): (id: PeerId) => Float64Array {
  const key = hash32(digest, 0x9747b28c)
  const names = Array.from({ length: count }, (_, index) => String(index))
  const cost = new Float64Array(count)
  // What was drawn and the block's index in one number each, as sorting numbers is quick: 2 ** 53 has room for two million blocks, or 2 TiB.
  const span = 2 ** Math.ceil(Math.log2(Math.max(count, 1)))
  const drawn = new Float64Array(count)
  return (id) => {
    const seed = hash32(id, key)
    const offset = (hash32('', seed) + 0.5) / 2 ** 32
    for (let index = 0; index < count; index++) drawn[index] = hash32(names[index]!, seed) * span + index
    drawn.sort()
    for (let rank = 0; rank < count; rank++) {
      cost[drawn[rank]! % span] = -Math.log1p(-(rank + offset) / count)
    }
    return cost
  }
}

/** Of each block, the lowest costs by weight that were offered so far, and whose they are; the earlier of equal ones is the lower. */
function lowest(count: number, copies: number) {
  const best = new Float64Array(count * copies)
  const who = new Int32Array(count * copies).fill(-1)
  const isLower = (own: number, place: number): boolean => who[place] === -1 || own < best[place]!
  return {
    offer(index: number, own: number, at: number): void {
      const row = index * copies
      let place = row + copies - 1
      if (copies === 0 || !isLower(own, place)) return
      for (; place > row && isLower(own, place - 1); place--) {
        best[place] = best[place - 1]!
        who[place] = who[place - 1]!
      }
      best[place] = own
      who[place] = at
    },
    /** Those of a block, lowest first. */
    of: (index: number): Int32Array => who.subarray(index * copies, (index + 1) * copies),
  }
}

/** The nodes with the `copies` lowest costs by weight, lowest first. */
function choose(
  cost: Float64Array,
  row: number,
  weights: readonly number[],
  copies: number,
  chosen: number[],
): void {
  chosen.length = 0
  for (let at = 0; at < weights.length; at++) {
    const own = cost[row + at]! / weights[at]!
    let place = chosen.length
    while (place > 0 && own < cost[row + chosen[place - 1]!]! / weights[chosen[place - 1]!]!) place--
    if (place >= copies) continue
    chosen.splice(place, 0, at)
    if (chosen.length > copies) chosen.pop()
  }
}
