import { createHash } from 'node:crypto'
import {
  balanceWeights,
  fairParts,
  type PlacedBlob,
  type PlacementNode,
  placeBlob,
} from '../../scheduler/index.ts'

/** Images, nodes and figures for measuring where copies live (scheduler/placement.ts). */
export const BLOCK = 2 ** 20

/** Numbers in [0, 1); the same seed gives the same ones (mulberry32). */
export function chance(start: number): () => number {
  let seed = start
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const name = (random: () => number): string => createHash('sha256').update(String(random())).digest('hex')
const between = (random: () => number, low: number, high: number): number =>
  low + Math.floor(random() * (high - low + 1))

/** Blobs of three images of 128 MiB that share a base layer; each has 4 or 5 layers of 8 to 64 MiB. */
export function threeImages(random: () => number, copies: number): PlacedBlob[] {
  const base = between(random, 24, 64)
  const blobs = [{ digest: `sha256:${name(random)}`, size: base * BLOCK, copies }]
  for (let image = 0; image < 3; image++) {
    let left = 128 - base
    for (let others = between(random, 2, 3); others >= 0; others--) {
      const most = Math.min(64, left - others * 8)
      const layer =
        others === 0 ? left : between(random, 8, Math.min(most, Math.floor((2 * left) / (others + 1))))
      left -= layer
      blobs.push({ digest: `sha256:${name(random)}`, size: layer * BLOCK, copies })
    }
  }
  return blobs
}

/** Nodes with equal weights, or with one of 1 to 4 parts each. */
export function someNodes(random: () => number, count: number, equal: boolean): PlacementNode[] {
  return Array.from({ length: count }, () => ({
    id: `12D3KooW${name(random).slice(0, 44)}`,
    weight: equal ? 1 : between(random, 1, 4),
  }))
}

/** `digest/index` of each block, and who keeps it. */
export function placeAll(
  blobs: readonly PlacedBlob[],
  nodes: readonly PlacementNode[],
): Map<string, Set<string>> {
  const balanced = balanceWeights(blobs, nodes, BLOCK)
  const placed = new Map<string, Set<string>>()
  for (const { digest, size, copies } of blobs) {
    for (const [index, keepers] of placeBlob(digest, Math.ceil(size / BLOCK), balanced, copies).entries()) {
      placed.set(`${digest}/${index}`, new Set(keepers))
    }
  }
  return placed
}

/** What each node holds, as a multiple of its fair part. */
export function shares(blobs: readonly PlacedBlob[], nodes: readonly PlacementNode[]): number[] {
  const fair = nodes.map(() => 0)
  for (const { size, copies } of blobs) {
    for (const [at, part] of fairParts(nodes, copies).entries()) fair[at]! += (part * size) / BLOCK
  }
  const placed = [...placeAll(blobs, nodes).values()]
  return nodes.map(({ id }, at) => placed.filter((keepers) => keepers.has(id)).length / fair[at]!)
}

/** Blocks that somebody has to get when the nodes change: all, and those that one node gets. */
export function moves(
  blobs: readonly PlacedBlob[],
  before: readonly PlacementNode[],
  after: readonly PlacementNode[],
): { moved: number; to: Map<string, number> } {
  const old = placeAll(blobs, before)
  const to = new Map<string, number>()
  let moved = 0
  for (const [block, keepers] of placeAll(blobs, after)) {
    for (const id of keepers) {
      if (old.get(block)!.has(id)) continue
      moved++
      to.set(id, (to.get(id) ?? 0) + 1)
    }
  }
  return { moved, to }
}
