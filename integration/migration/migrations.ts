import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager, Rpc } from '../../manager/index.ts'
import type { Checkpoints } from '../checkpoint/types.ts'
import type { Claim } from '../claims.ts'
import type { Runtimes } from '../runtime/index.ts'
import type { States } from '../state/types.ts'
import { createCarrier } from './carrier.ts'
import { systemClock } from './clock.ts'
import { createDrain } from './drain.ts'
import { createEngine, type Engine } from './engine.ts'
import type { Entry } from './entry.ts'
import { createJudge, type FindImage } from './fit.ts'
import { untilHealthy } from './health.ts'
import { TIMINGS } from './parts.ts'
import type { Migrations } from './types.ts'

/**
 * Moves running containers between the nodes of a cluster.
 * @param dataDir of the daemon; states on their way lie in `migrations` below it
 */
export async function createMigrations(deps: {
  dataDir: string
  manager: Pick<Manager, 'self' | 'members' | 'elsewhere'>
  rpc: Pick<Rpc, 'request' | 'handle'>
  store: BlockStore
  states: States
  runtimes: Pick<Runtimes, 'list' | 'get'>
  findImage?: FindImage
  /** Takes the last checkpoint of what cannot be moved when the node is drained. */
  checkpoints?: Pick<Checkpoints, 'create'>
  claim?: Claim
  log: Log
}): Promise<Migrations & Pick<Engine, 'begin'>> {
  const { manager, store, states, runtimes, log } = deps
  const dir = join(deps.dataDir, 'migrations')
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const carrier = createCarrier({ dir, manager, states, log })
  const engine = await createEngine({
    self: manager.self.id,
    find: (node) => manager.members.find(node),
    rpc: deps.rpc,
    records: store.records<Entry>('migrations'),
    runtimes,
    carrier,
    judge: createJudge({ dir, runtime: (name) => runtimes.get(name), findImage: deps.findImage, log }),
    health: untilHealthy,
    clock: systemClock,
    timings: TIMINGS,
    claim: deps.claim,
    log,
  })
  const drain = createDrain({ manager, runtimes, migrations: engine, checkpoints: deps.checkpoints, log })
  return { ...engine, drain }
}
