import { setTimeout as sleep } from 'node:timers/promises'
import { createTurns, type Log, ShoalError } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { Migrations, MoveHooks } from '../../migration/types.ts'
import type { Executor, PodDriver, PodNetwork, PodOrder, PodRef, PodReport, Reserved } from '../executor.ts'
import { createAdmission } from './admission.ts'
import { createPodLoop } from './loop.ts'
import { createPodMoving } from './moving.ts'
import { createQuota } from './quota.ts'
import { keyOf, type Row, type Rows } from './rows.ts'
import { createPodStates } from './states.ts'
import { createSweep } from './sweep.ts'

/** Containers that are made or removed at the same time. */
const AT_ONCE = 4

export interface NodeExecutor extends Executor {
  /** What migrations ask of it about containers that are its own. */
  readonly hooks: MoveHooks
  /** The pods of which nobody knows any more, as their manager says, go. */
  forget(unknown: PodRef[]): void
  /** Looks for containers and networks that no row names, and removes them. */
  sweep(): Promise<void>
}

export interface NodeExecutorOptions {
  self: PeerId
  rows: Rows
  driver: PodDriver
  network: PodNetwork
  /** Address under which UEs and other nodes reach this one's ports. */
  address: () => string
  /** Where the output of a pod goes. */
  logFile: (name: string) => string | undefined
  dropLog: (name: string) => Promise<void>
  /** What a pod's manager says that it is: who comes by a migration has only labels. */
  askOrder: (manager: PeerId, ref: PodRef, signal: AbortSignal) => Promise<PodOrder>
  migrations?: () => Promise<Migrations>
  /** Whether an order fits beside what is here. @throws UNFIT */
  admit?: (order: PodOrder, others: Reserved[]) => Promise<void>
  log: Log
  timing?: { watchMs?: number; backoffMs?: number; sweepMs?: number; quotaMs?: number }
}

/**
 * The executor of one node. Each pod is a row in the store's index and a loop that brings what is there to what the row says: pull, network,
 * container. Every step can be repeated, and what a kill -9 left half done is known by the pod's name.
 */
export function createNodeExecutor(options: NodeExecutorOptions): NodeExecutor {
  const { self, rows, driver, network, logFile, dropLog, askOrder, migrations, log } = options
  const { watchMs = 1000, backoffMs, sweepMs = 60e3, quotaMs } = options.timing ?? {}
  const stop = new AbortController()
  const closing = stop.signal
  const turns = createTurns(AT_ONCE)
  /** What reads and changes the table of ports, one at a time. */
  const gate = createTurns(1)
  const states = createPodStates({ rows, address: options.address })
  const { live, report, tell, set } = states
  const admission = createAdmission({ rows, network, fits: options.admit })
  const loop = createPodLoop({
    self,
    rows,
    states,
    turns,
    driver,
    network,
    logFile,
    dropLog,
    closing,
    log,
    backoffMs,
  })
  const { kick, converge, interrupt } = loop
  const moving = createPodMoving({
    self,
    rows,
    states,
    loop,
    admission,
    gate,
    driver,
    network,
    askOrder,
    migrations,
    remove,
    closing,
    log,
  })
  const sweep = createSweep({ self, rows, turns, driver, network, dropLog, signal: closing, log })

  const quota = createQuota({ rows, states, driver, loop, everyMs: quotaMs, signal: closing, log })

  async function ensure(order: PodOrder): Promise<PodReport> {
    const key = keyOf(order)
    return gate.run('', async () => {
      const known = rows.get(key)
      if (known !== undefined && known.order.generation > order.generation) return report(key, known)
      if (known?.wanted === 'there' && known.order.generation === order.generation) {
        if (live(key).phase === 'waiting' && live(key).retry === undefined) kick(key)
        return report(key, known)
      }
      const ports = await admission.admit(key, order)
      const row: Row = { order, wanted: 'there', ports, restarts: 0 }
      await rows.put(key, row)
      set(key, 'waiting')
      if (known !== undefined) interrupt(key)
      kick(key)
      return report(key, row)
    })
  }

  async function remove(ref: PodRef, signal: AbortSignal): Promise<boolean> {
    const key = keyOf(ref)
    const row = rows.get(key)
    if (row === undefined) return false
    if (row.wanted !== 'gone') {
      await rows.put(key, { order: row.order, wanted: 'gone', ports: row.ports, restarts: row.restarts })
      interrupt(key)
      tell(key)
    }
    for (let wait = 0; rows.get(key)?.wanted === 'gone'; wait = Math.min(2000, wait + 200)) {
      if (wait > 0) await sleep(wait, undefined, { signal })
      try {
        await turns.run(key, () => converge(key))
      } catch (error) {
        log.warn({ err: error, pod: key }, 'what is left of a pod cannot be removed yet')
      }
      if (closing.aborted) throw new ShoalError('ABORTED', 'the node is being stopped')
      signal.throwIfAborted()
    }
    return true
  }

  for (const [key] of rows.all()) kick(key)
  void moving.resume().catch((error) => log.warn({ err: error }, 'moves under way cannot be looked at'))
  const watching = setInterval(
    () => void loop.watch().catch((error) => log.warn({ err: error }, 'watching failed')),
    watchMs,
  )
  watching.unref()
  const sweeping = setInterval(
    () => void sweep().catch((error) => log.warn({ err: error }, 'sweeping failed')),
    sweepMs,
  )
  sweeping.unref()
  void sweep().catch((error) => log.warn({ err: error }, 'sweeping failed'))

  return {
    ensure,
    remove,
    move: moving.move,
    hooks: moving.hooks,
    sweep,
    onReport: states.onReport,
    reports: () => [...rows.all()].map(([key, row]) => report(key, row)),
    reserved: () => admission.reserved(),
    forget(unknown) {
      for (const ref of unknown) {
        void remove(ref, closing).catch((error) => log.warn({ err: error }, 'removing failed'))
      }
    },
    async close() {
      stop.abort()
      clearInterval(watching)
      clearInterval(sweeping)
      quota.close()
      for (const state of states.all()) {
        clearTimeout(state.retry)
        state.work.abort(new ShoalError('ABORTED', 'the node is being stopped'))
      }
      await turns.idle()
    },
  }
}
