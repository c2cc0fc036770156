import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, type Log, ShoalError } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { Migrations, MoveHooks } from '../../migration/types.ts'
import type {
  DriverPod,
  Executor,
  PodDriver,
  PodNetwork,
  PodOrder,
  PodPhase,
  PodRef,
  PodReport,
  Reserved,
} from '../executor.ts'
import { createTurns } from '../turns.ts'
import { freePort } from './ports.ts'
import { isRunning } from './process.ts'
import { keyOf, type Row, type Rows } from './rows.ts'

/** Containers that are made or removed at the same time. */
const AT_ONCE = 4
const BACKOFF_MS = 1000
const MAX_BACKOFF_MS = 60e3
/** Who ran so long has recovered: the next restart is at once again. */
const SOUND_MS = 60e3
/** So many failures in a row, and the pod counts as failed; it is tried again all the same. */
const PATIENCE = 3

export const LABELS = {
  app: 'shoal.app',
  pod: 'shoal.pod',
  owner: 'shoal.owner',
  manager: 'shoal.manager',
  generation: 'shoal.generation',
  node: 'shoal.node',
} as const

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
  timing?: { watchMs?: number; backoffMs?: number; sweepMs?: number }
}

/** What of a pod is in memory only: it is found out again after a restart. */
interface Live {
  phase: PodPhase
  pid: number | undefined
  startedAt: number
  failures: number
  /** When the next try is due; undefined: now. */
  retry: NodeJS.Timeout | undefined
  reason: string | undefined
  work: AbortController
}

/** The name of a pod's container and network; it says whose it is, and there is one of it. */
export function containerName({ app, pod }: PodRef): string {
  return `shoal-${app}-${pod}`
}

/**
 * The executor of one node. Each pod is a row in the store's index and a loop that brings what is there to what the row says: pull, network,
 * container. Every step can be repeated, and what a kill -9 left half done is known by the pod's name.
 */
export function createNodeExecutor(options: NodeExecutorOptions): NodeExecutor {
  const { self, rows, driver, network, log } = options
  const { watchMs = 1000, backoffMs = BACKOFF_MS, sweepMs = 60e3 } = options.timing ?? {}
  const closing = new AbortController()
  const lives = new Map<string, Live>()
  const listeners = new Set<(report: PodReport) => void>()
  const turns = createTurns(AT_ONCE)
  /** What reads and changes the table of ports, one at a time. */
  const gate = createTurns(1)
  const said = new Map<string, string>()

  function live(key: string): Live {
    let known = lives.get(key)
    if (known === undefined) {
      known = {
        phase: 'waiting',
        pid: undefined,
        startedAt: 0,
        failures: 0,
        retry: undefined,
        reason: undefined,
        work: new AbortController(),
      }
      lives.set(key, known)
    }
    return known
  }

  function report(key: string, row: Row): PodReport {
    const { phase, reason } = live(key)
    const { order, ports } = row
    const shown: PodPhase =
      row.wanted === 'gone'
        ? 'removing'
        : row.arriving !== undefined
          ? 'arriving'
          : row.moving !== undefined && phase === 'running'
            ? 'moving'
            : phase
    const first = ports[0]
    const reachable = (shown === 'running' || shown === 'moving') && first !== undefined
    return {
      app: order.app,
      pod: order.pod,
      manager: order.manager,
      generation: order.generation,
      phase: shown,
      ports,
      referenceURI: reachable ? `http://${options.address()}:${first.host}` : undefined,
      restarts: row.restarts,
      reason,
    }
  }

  function tell(key: string): void {
    const row = rows.get(key)
    if (row === undefined) return
    const now = report(key, row)
    const text = JSON.stringify(now)
    if (said.get(key) === text) return
    said.set(key, text)
    for (const listener of listeners) listener(now)
  }

  function set(key: string, phase: PodPhase, reason?: string): void {
    const state = live(key)
    state.phase = phase
    state.reason = reason
    tell(key)
  }

  /** Brings the pod to what its row says, now or after a while; one at a time for each. */
  function kick(key: string, afterMs = 0): void {
    if (closing.signal.aborted) return
    const state = live(key)
    clearTimeout(state.retry)
    state.retry = setTimeout(() => {
      state.retry = undefined
      void turns.run(key, () => converge(key)).catch((error) => failed(key, error))
    }, afterMs)
    state.retry.unref()
  }

  function failed(key: string, error: unknown): void {
    if (closing.signal.aborted) return
    const row = rows.get(key)
    if (row === undefined) return
    const state = live(key)
    // It was interrupted, since something else is wanted now.
    if (isShoalError(error, 'ABORTED')) {
      kick(key, backoffMs)
      return
    }
    state.failures++
    const wait = Math.min(MAX_BACKOFF_MS, backoffMs * 2 ** (state.failures - 1))
    const reason = (error as Error).message
    log.warn({ err: error, pod: key, failures: state.failures }, 'a pod is not as it shall be')
    if (row.wanted === 'there') {
      const final = isShoalError(error, 'NOT_FOUND', 'DENIED', 'UNAUTHORIZED')
      set(key, state.failures >= PATIENCE || final ? 'failed' : 'waiting', reason)
    }
    kick(key, wait)
  }

  async function converge(key: string): Promise<void> {
    const row = rows.get(key)
    if (row === undefined || closing.signal.aborted) return
    if (row.wanted === 'gone') return clear(key, row)
    if (row.arriving !== undefined || row.moving !== undefined) return
    const name = containerName(row.order)
    const state = live(key)
    const { signal } = state.work
    const there = await driver.find(name, signal)
    const current = there?.labels[LABELS.generation] === `${row.order.generation}`
    if (there?.pid !== undefined && current && (await isUp(there))) {
      await network.attach(name, row.ports, signal)
      state.pid = there.pid
      state.startedAt ||= Date.now()
      set(key, 'running')
      return
    }
    if (there !== undefined && current) {
      state.reason = await driver.ending(name, signal).catch(() => undefined)
      await driver.remove(name, signal)
    }
    set(key, 'pulling', state.reason)
    await driver.pull(row.order.spec.image, signal)
    if (!stands(key, row)) return
    set(key, 'starting', state.reason)
    const netns = await network.attach(name, row.ports, signal)
    if (!stands(key, row)) return
    const { pid } = await driver.start(
      { name, labels: labelsOf(row.order), spec: row.order.spec, netns, log: options.logFile(name) },
      signal,
    )
    state.pid = pid
    state.startedAt = Date.now()
    set(key, 'running')
  }

  async function isUp(there: DriverPod): Promise<boolean> {
    return there.pid !== undefined && (await isRunning(there.pid))
  }

  /** False when the row was changed while something was done for it: the next turn does what it says now. */
  function stands(key: string, row: Row): boolean {
    return rows.get(key) === row && !closing.signal.aborted
  }

  function labelsOf(order: PodOrder): Record<string, string> {
    return {
      [LABELS.app]: order.app,
      [LABELS.pod]: order.pod,
      [LABELS.owner]: order.owner,
      [LABELS.manager]: order.manager,
      [LABELS.generation]: `${order.generation}`,
      [LABELS.node]: self,
    }
  }

  /** Nothing is left when it resolves. */
  async function clear(key: string, row: Row): Promise<void> {
    const name = containerName(row.order)
    const { signal } = closing
    await driver.remove(name, signal)
    await network.detach(name, signal)
    await options.dropLog(name)
    // It may have been wanted again meanwhile.
    if (rows.get(key) !== row) return void kick(key)
    await rows.delete(key)
    const state = live(key)
    clearTimeout(state.retry)
    lives.delete(key)
    said.delete(key)
  }

  async function portsFor(key: string, wanted: number[]): Promise<Row['ports']> {
    if (network.shared) return wanted.map((port) => ({ port, host: port }))
    const taken = new Set<number>()
    for (const [other, row] of rows.all())
      if (other !== key) for (const { host } of row.ports) taken.add(host)
    const ports: Row['ports'] = []
    for (const port of wanted) {
      const host = await freePort(taken)
      taken.add(host)
      ports.push({ port, host })
    }
    return ports
  }

  function reserved(except?: string): Reserved[] {
    const there = [...rows.all()].filter(([key, { wanted }]) => wanted === 'there' && key !== except)
    return there.map(([, { order }]) => {
      const { cpu, memory, storage } = order.spec
      return { manager: order.manager, cpu, memory, storage }
    })
  }

  function refuseTaken(key: string, order: PodOrder): void {
    if (!network.shared) return
    for (const [other, row] of rows.all()) {
      const port = row.ports.find(({ host }) => order.spec.ports.includes(host))
      if (other !== key && port !== undefined) {
        throw new ShoalError('UNFIT', `port ${port.host} of the node is taken by ${other}`)
      }
    }
  }

  async function ensure(order: PodOrder): Promise<PodReport> {
    const key = keyOf(order)
    return gate.run('', async () => {
      const known = rows.get(key)
      if (known !== undefined && known.order.generation > order.generation) return report(key, known)
      if (known?.wanted === 'there' && known.order.generation === order.generation) {
        if (live(key).phase === 'waiting' && live(key).retry === undefined) kick(key)
        return report(key, known)
      }
      refuseTaken(key, order)
      await options.admit?.(order, reserved(key))
      const ports = await portsFor(key, order.spec.ports)
      const row: Row = { order, wanted: 'there', ports, restarts: 0 }
      await rows.put(key, row)
      set(key, 'waiting')
      if (known !== undefined) interrupt(key)
      kick(key)
      return report(key, row)
    })
  }

  /** What is under way for the pod is no longer wanted. */
  function interrupt(key: string): void {
    const state = live(key)
    state.work.abort(new ShoalError('ABORTED', 'the pod is wanted otherwise now'))
    state.work = new AbortController()
    state.failures = 0
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
      if (closing.signal.aborted) throw new ShoalError('ABORTED', 'the node is being stopped')
      signal.throwIfAborted()
    }
    return true
  }

  async function watch(): Promise<void> {
    for (const [key, row] of rows.all()) {
      const state = lives.get(key)
      if (state?.phase !== 'running' || row.wanted !== 'there' || row.moving || row.arriving) continue
      if (state.pid !== undefined && (await isRunning(state.pid))) {
        if (state.failures > 0 && Date.now() - state.startedAt > SOUND_MS) state.failures = 0
        continue
      }
      if (rows.get(key) !== row || state.phase !== 'running') continue
      state.pid = undefined
      const wait = state.failures === 0 ? 0 : Math.min(MAX_BACKOFF_MS, backoffMs * 2 ** (state.failures - 1))
      state.failures++
      await rows.put(key, { ...row, restarts: row.restarts + 1 })
      set(key, state.failures > PATIENCE ? 'failed' : 'waiting', 'its process ended; it is started again')
      kick(key, wait)
    }
  }

  async function sweep(): Promise<void> {
    const { signal } = closing
    const named = new Set([...rows.all()].map(([, { order }]) => containerName(order)))
    const mine = (await driver.list(signal)).filter(({ labels }) => labels[LABELS.node] === self)
    const left = new Set([...mine.map(({ name }) => name), ...(await network.list())])
    for (const name of left) {
      if (named.has(name)) continue
      await turns.run(name, async () => {
        if ([...rows.all()].some(([, { order }]) => containerName(order) === name)) return
        log.warn({ container: name }, 'nobody knows of this container any more: it is removed')
        await driver.remove(name, signal)
        await network.detach(name, signal)
        await options.dropLog(name)
      })
    }
  }

  const hooks: MoveHooks = {
    owns: (labels) => labels[LABELS.app] !== undefined && labels[LABELS.manager] !== undefined,

    async prepare(move, signal) {
      const { labels } = move.container
      const order = await options.askOrder(labels[LABELS.manager]!, refOf(labels), signal)
      const key = keyOf(order)
      return gate.run('', async () => {
        const known = rows.get(key)
        if (known !== undefined && known.arriving === undefined && known.wanted === 'there') {
          throw new ShoalError('BUSY', `${key} is on this node already`)
        }
        refuseTaken(key, order)
        await options.admit?.(order, reserved(key))
        const ports = await portsFor(key, order.spec.ports)
        await rows.put(key, { order, wanted: 'there', ports, arriving: move.id, restarts: 0 })
        set(key, 'arriving')
        const netns = await network.attach(containerName(order), ports, signal)
        return { netns, labels: { [LABELS.node]: self } }
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
    if (network.shared || options.migrations === undefined) {
      throw new ShoalError(
        'UNFIT',
        'pods of this node cannot move: they live in its own network, or there is no CRIU',
      )
    }
    const migrations = await options.migrations()
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
      const ended = await migrations.ended(id, closing.signal)
      if (ended.state !== 'done' && ended.state !== 'undecided') {
        await stay(key, `moving to ${ended.to} came to nothing: ${ended.reason ?? ended.state}`)
      }
    } catch (error) {
      if (!closing.signal.aborted) log.warn({ err: error, pod: key }, 'nothing is known of a migration')
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

  /** After a restart: a move may have ended, or goes on by its journal. */
  async function resumeMoves(): Promise<void> {
    const moving = [...rows.all()].filter(([, row]) => row.moving !== undefined || row.arriving !== undefined)
    if (moving.length === 0) return
    const migrations = await options.migrations?.()
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

  for (const [key] of rows.all()) kick(key)
  void resumeMoves().catch((error) => log.warn({ err: error }, 'moves under way cannot be looked at'))
  const watching = setInterval(
    () => void watch().catch((error) => log.warn({ err: error }, 'watching failed')),
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
    move,
    hooks,
    sweep,
    reports: () => [...rows.all()].map(([key, row]) => report(key, row)),
    reserved: () => reserved(),
    forget(unknown) {
      for (const ref of unknown) {
        void remove(ref, closing.signal).catch((error) => log.warn({ err: error }, 'removing failed'))
      }
    },
    onReport(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    async close() {
      closing.abort()
      clearInterval(watching)
      clearInterval(sweeping)
      for (const state of lives.values()) {
        clearTimeout(state.retry)
        state.work.abort(new ShoalError('ABORTED', 'the node is being stopped'))
      }
      await turns.idle()
    },
  }
}

function refOf(labels: Record<string, string>): PodRef {
  return { app: labels[LABELS.app] ?? '', pod: labels[LABELS.pod] ?? '' }
}
