import type { Log } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import {
  createPlanner,
  type DispatchAnswer,
  type PeerBook,
  type Planner,
  type Priority,
} from '../../scheduler/index.ts'
import type { Exchange, Membership, Rpc } from '../types.ts'
import type { Blocks } from './blocks.ts'
import type { BufferPool } from './buffers.ts'
import type { Coordinator } from './coordinator.ts'
import type { Diskless } from './diskless.ts'
import { createDispatching, type Dispatching } from './dispatching.ts'
import { createFetching, type Fetching } from './fetching.ts'
import { createMapQueries, type MapQueries } from './maps.ts'
import type { Openings } from './openings.ts'
import { createSeeding, type Seeding } from './seeding.ts'
import { createVerifier, type Verifier } from './verifier.ts'

/** What a work needs of the node that it runs on. */
export interface WorkPlace {
  members: Membership
  rpc: Rpc
  exchange: Exchange
  coordinator: Coordinator
  book: PeerBook
  pool: BufferPool
  random: () => number
  mayReceive: (bytes: number, priority: Priority) => Promise<void>
}

/** The moving parts of one go at a blob. They end together; what is missing later is another go with new ones. */
export interface Work {
  planner: Planner
  verifier: Verifier
  dispatching: Dispatching
  seeding: Seeding
  fetching: Fetching
  maps: MapQueries
  /** Resolves when nothing is under way any more. */
  stop(): Promise<void>
}

export function createWork(
  place: WorkPlace,
  task: {
    blocks: Blocks
    openings: Openings
    diskless: Diskless
    /** Reader -> index of the block it waits for. */
    readers: ReadonlyMap<number, number>
    onBlock: (index: number, bytes: Uint8Array, from: 'peers' | 'upstream') => void
    onAnswer: (answer: DispatchAnswer) => void
    onCuts: (indexes: readonly number[]) => void
    /** Bytes came from upstream that are no block yet. */
    onMove: () => void
    log: Log
  },
): Work {
  const { members, rpc, exchange, coordinator, book, pool, random } = place
  const { blocks, openings, diskless, log } = task
  const planner = createPlanner({ blockSize: BLOCK_SIZE, book, priority: () => openings.priority, random })
  const dispatching = createDispatching({
    digest: blocks.digest,
    blocks,
    members,
    rpc,
    coordinator,
    seed: () => (openings.origin() && !diskless.active ? { rate: Math.round(seeding.rate()) } : undefined),
    onAnswer: task.onAnswer,
    log,
  })
  const seeding = createSeeding({
    blocks,
    pool,
    origin: openings.origin,
    onBlock: (index, bytes) => task.onBlock(index, bytes, 'upstream'),
    onBytes: (count) => {
      task.onMove()
      return place.mayReceive(count, openings.priority)
    },
    onRelease: (lease, reason, detail) => dispatching.release(lease.id, reason, detail),
    onDenied: openings.refused,
    onFull: () => diskless.start(),
    onHalf: () => dispatching.kick(),
    log,
  })
  const fetching = createFetching({
    blocks,
    planner,
    exchange,
    pool,
    priority: () => openings.priority,
    onBlock: (index, bytes) => task.onBlock(index, bytes, 'peers'),
    onFull: () => diskless.start(),
    keep: (index, bytes) => diskless.keep(index, bytes),
    log,
  })
  const maps = createMapQueries({ blocks, rpc, onCuts: task.onCuts, log })
  for (const { index } of blocks.cuts()) {
    planner.known(index)
    if (blocks.has(index)) planner.got(index)
  }
  for (const [id, index] of task.readers) planner.reader(id, index)
  return {
    planner,
    verifier: createVerifier({ blocks, pool, readers: task.readers }),
    dispatching,
    seeding,
    fetching,
    maps,
    async stop() {
      maps.stop()
      await Promise.all([seeding.stop(), fetching.stop()])
    },
  }
}
