import { type Log, ShoalError, type Turns } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { Migrations, MoveHooks } from '../../migration/types.ts'
import type { PodDriver, PodNetwork, PodOrder, PodRef } from '../executor.ts'
import type { Admission } from './admission.ts'
import { containerName, LABELS, refOf } from './labels.ts'
import type { PodLoop } from './loop.ts'
import { keyOf, type Rows } from './rows.ts'
import type { PodStates } from './states.ts'

/** Pods of this node that go to another one, or come from there, by a migration. */
export interface PodMoving {
  /** Resolves when the move is under way. @throws NOT_FOUND | BUSY | UNFIT */
  move(ref: PodRef, to: PeerId, signal: AbortSignal): Promise<void>
  /** What migrations ask of the executor about containers that are its own. */
  readonly hooks: MoveHooks
  /** After a restart: a move may have ended, or goes on by its journal. */
  resume(): Promise<void>
}

export function createPodMoving(deps: {
  self: PeerId
  rows: Rows
  states: PodStates
  loop: PodLoop
  admission: Admission
  /** What reads and changes the table of ports, one at a time. */
  gate: Turns
  driver: PodDriver
  network: PodNetwork
  /** What a pod's manager says that it is: who comes by a migration has only labels. */
  askOrder: (manager: PeerId, ref: PodRef, signal: AbortSignal) => Promise<PodOrder>
  migrations?: (() => Promise<Migrations>) | undefined
  remove: (ref: PodRef, signal: AbortSignal) => Promise<boolean>
  /** The node is being stopped. */
  closing: AbortSignal
  log: Log
}): PodMoving {
  const { self, rows, states, loop, admission, gate, driver, network, askOrder, remove, closing, log } = deps
  const { live, tell, set } = states
  const { kick } = loop

  const hooks: MoveHooks = {
    owns: (labels) => labels[LABELS.app] !== undefined && labels[LABELS.manager] !== undefined,

    async prepare(move, signal) {
      const { labels, runtime } = move.container
      if (runtime !== driver.runtime)
        throw new ShoalError('UNFIT', `pods run in ${driver.runtime} here, and it comes from ${runtime}`)
      if (network.shared) throw new ShoalError('UNFIT', "pods live in the node's own network here")
      const order = await askOrder(labels[LABELS.manager]!, refOf(labels), signal)
      const key = keyOf(order)
      return gate.run('', async () => {
        const known = rows.get(key)
        if (known !== undefined && known.arriving === undefined && known.wanted === 'there') {
          throw new ShoalError('BUSY', `${key} is on this node already`)
        }
        const ports = await admission.admit(key, order)
        await rows.put(key, { order, wanted: 'there', ports, arriving: move.id, restarts: 0 })
        set(key, 'arriving')
        const netns = await network.attach(containerName(order), ports, signal)
        return { ...(netns === undefined ? { ports } : { netns }), labels: { [LABELS.node]: self } }
      })
    },

    async arrived(move, container) {
      const key = keyOf(refOf(move.container.labels))
      const row = rows.get(key)
      if (row === undefined || row.wanted === 'gone') return
      const { arriving: _, ...rest } = row
      await rows.put(key, rest)
      const state = live(key)
      state.pid = container.pid
      state.startedAt = Date.now()
      set(key, 'running')
    },

    async discarded(move, signal) {
      const ref = refOf(move.container.labels)
      if (rows.get(keyOf(ref))?.arriving === move.id) await remove(ref, signal)
    },

    async left(move, signal) {
      await remove(refOf(move.container.labels), signal)
    },
  }

  async function move(ref: PodRef, to: PeerId, signal: AbortSignal): Promise<void> {
    const key = keyOf(ref)
    const row = rows.get(key)
    if (row === undefined || row.wanted === 'gone')
      throw new ShoalError('NOT_FOUND', `${key} is not on this node`)
    if (row.moving !== undefined) throw new ShoalError('BUSY', `${key} is on its way already`)
    if (live(key).phase !== 'running') throw new ShoalError('BUSY', `${key} does not run yet`)
    if (network.shared || deps.migrations === undefined) {
      throw new ShoalError(
        'UNFIT',
        'pods of this node cannot move: they live in its own network, or there is no CRIU',
      )
    }
    const migrations = await deps.migrations()
    await rows.put(key, { ...row, moving: to })
    tell(key)
    try {
      const { id } = await migrations.start({
        container: containerName(row.order),
        runtime: driver.runtime,
        to,
      })
      void settle(key, id, migrations)
    } catch (error) {
      await stay(key, (error as Error).message)
      throw error
    }
    signal.throwIfAborted()
  }

  /** What became of a migration is the migration's own record; here it is only learnt whether the pod stays. */
  async function settle(key: string, id: string, migrations: Migrations): Promise<void> {
    try {
      const ended = await migrations.ended(id, closing)
      if (ended.state !== 'done' && ended.state !== 'undecided') {
        await stay(key, `moving to ${ended.to} came to nothing: ${ended.reason ?? ended.state}`)
      }
    } catch (error) {
      if (!closing.aborted) log.warn({ err: error, pod: key }, 'nothing is known of a migration')
    }
  }

  async function stay(key: string, reason: string): Promise<void> {
    const row = rows.get(key)
    if (row?.moving === undefined) return
    const { moving: _, ...rest } = row
    await rows.put(key, rest)
    live(key).reason = reason
    tell(key)
    kick(key)
  }

  async function resume(): Promise<void> {
    const moving = [...rows.all()].filter(([, row]) => row.moving !== undefined || row.arriving !== undefined)
    if (moving.length === 0) return
    const migrations = await deps.migrations?.()
    for (const [key, row] of moving) {
      const name = containerName(row.order)
      const known = migrations
        ?.list()
        .filter(
          ({ container, id }) =>
            container.name === name && (row.arriving === undefined || id === row.arriving),
        )
        .at(-1)
      if (migrations !== undefined && known?.state === 'running') {
        if (row.moving !== undefined) void settle(key, known.id, migrations)
      } else if (row.moving !== undefined) {
        if (known?.state === 'done') await rows.put(key, { ...row, wanted: 'gone' })
        else if (known?.state !== 'undecided') await stay(key, known?.reason ?? 'moving came to nothing')
      } else if (known?.state !== 'undecided') {
        const { arriving: _, ...rest } = row
        await rows.put(key, known?.state === 'done' ? rest : { ...rest, wanted: 'gone' })
      }
      kick(key)
    }
  }

  return { move, hooks, resume }
}
