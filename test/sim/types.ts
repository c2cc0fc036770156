import { BLOCK_SIZE } from '../../blockstore/index.ts'

/** A node that is stopped dead at a time; `coordinator` and `seeder` name whoever is that then. */
export interface Failure {
  who: 'coordinator' | 'seeder' | 'random'
  count: number
  atMs: number
}

/** What is simulated. Rates in bytes a second, sizes in bytes. */
export interface Scenario {
  nodes: number
  size: number
  blockSize: number
  uplink: number
  /** One uplink for the site, or one of that rate for each node. */
  uplinks: 'shared' | 'each'
  /** Of each node, in each direction. */
  lan: number
  /** How a node's LAN link serves several neighbours at a time. */
  links: 'fair' | 'fifo'
  seed: number
  /** One way between two nodes. */
  latencyMs: number
  /** From a request to the first byte of upstream. */
  upstreamMs: number
  /** Hashing and storing a block. */
  processMs: number
  /** Work of a coordinator for one dispatch. */
  dispatchMs: number
  /** News of blocks wait so long for company. */
  batchMs: number
  /** A dead node is known as such after this. */
  detectMs: number
  failures: Failure[]
  limitMs: number
}

export interface Outcome {
  /** When each node that lived had all blocks, ascending; ms. */
  doneMs: number[]
  /** Nodes that lived and are not done. */
  unfinished: number
  killed: number
  uplinkBytes: number
  /** When the last block came over the uplink. */
  uplinkMs: number
  /** Sent between nodes, blocks only. */
  lanBytes: number
  /** Blocks that arrived twice or from peers that had been cancelled, in bytes. */
  wastedBytes: number
  hedges: number
  dispatches: number
  /** Notes of new blocks, each to one neighbour. */
  notes: number
  asks: number
  missing: number
  dispatchBytes: number
  events: number
}

export const DEFAULTS: Scenario = {
  nodes: 1000,
  size: 2 ** 30,
  blockSize: BLOCK_SIZE,
  uplink: 125e6,
  uplinks: 'shared',
  lan: 125e6,
  links: 'fair',
  seed: 1,
  latencyMs: 0.25,
  upstreamMs: 40,
  processMs: 2,
  dispatchMs: 0.3,
  batchMs: 100,
  detectMs: 1000,
  failures: [],
  limitMs: 3_600_000,
}

/** The least time that any scheme needs: every byte over the uplink once, and to every node over its own link. */
export function lowerBoundMs(s: Scenario): number {
  const uplinks = s.uplinks === 'shared' ? s.uplink : s.uplink * s.nodes
  // Where uplinks are the nodes' own, what comes over a node's uplink need not come over its LAN.
  const reach = s.uplinks === 'shared' ? s.lan : s.lan + s.uplink
  return (1000 * s.size) / Math.min(uplinks, reach)
}
