import { isShoalError, type Log, ShoalError, type Turns } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { DriverPod, PodDriver, PodNetwork } from '../executor.ts'
import { containerName, LABELS, labelsOf } from './labels.ts'
import { isRunning } from './process.ts'
import type { Row, Rows } from './rows.ts'
import type { PodStates } from './states.ts'

const BACKOFF_MS = 1000
const MAX_BACKOFF_MS = 60e3
/** Who ran so long has recovered: the next restart is at once again. */
const SOUND_MS = 60e3
/** So many failures in a row, and the pod counts as failed; it is tried again all the same. */
const PATIENCE = 3

/** The loop of each pod, which brings what is there to what its row says: pull, network, container. */
export interface PodLoop {
  /** Brings the pod to what its row says, now or after a while; one at a time for each. */
  kick(key: string, afterMs?: number): void
  /** The same once, in the caller's turn, with its errors. */
  converge(key: string): Promise<void>
  /** What is under way for the pod is no longer wanted. */
  interrupt(key: string): void
  /** Starts again those whose process has ended. */
  watch(): Promise<void>
}

export function createPodLoop(deps: {
  self: PeerId
  rows: Rows
  states: PodStates
  turns: Turns
  driver: PodDriver
  network: PodNetwork
  logFile: (name: string) => string | undefined
  dropLog: (name: string) => Promise<void>
  /** The node is being stopped. */
  closing: AbortSignal
  log: Log
  backoffMs?: number | undefined
}): PodLoop {
  const { self, rows, states, turns, driver, network, logFile, dropLog, closing, log } = deps
  const { backoffMs = BACKOFF_MS } = deps
  const { live, set } = states

  function kick(key: string, afterMs = 0): void {
    if (closing.aborted) return
    const state = live(key)
    clearTimeout(state.retry)
    state.retry = setTimeout(() => {
      state.retry = undefined
      void turns.run(key, () => converge(key)).catch((error) => failed(key, error))
    }, afterMs)
    state.retry.unref()
  }

  function failed(key: string, error: unknown): void {
    if (closing.aborted) return
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
    if (row === undefined || closing.aborted) return
    if (row.wanted === 'gone') return clear(key, row)
    if (row.arriving !== undefined || row.moving !== undefined) return
    if (row.stopped !== undefined) return halt(key, row, row.stopped)
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
      {
        name,
        labels: labelsOf(row.order, self),
        spec: row.order.spec,
        netns,
        ports: row.ports,
        log: logFile(name),
      },
      signal,
    )
    state.pid = pid
    state.startedAt = Date.now()
    set(key, 'running')
  }

  /** Its row, with its ports, stays until its manager has it removed. */
  async function halt(key: string, { order }: Row, reason: string): Promise<void> {
    const name = containerName(order)
    live(key).pid = undefined
    await driver.remove(name, closing)
    await network.detach(name, closing)
    set(key, 'failed', reason)
  }

  async function isUp(there: DriverPod): Promise<boolean> {
    return there.pid !== undefined && (await isRunning(there.pid))
  }

  /** False when the row was changed while something was done for it: the next turn does what it says now. */
  function stands(key: string, row: Row): boolean {
    return rows.get(key) === row && !closing.aborted
  }

  /** Nothing is left when it resolves. */
  async function clear(key: string, row: Row): Promise<void> {
    const name = containerName(row.order)
    await driver.remove(name, closing)
    await network.detach(name, closing)
    await dropLog(name)
    // It may have been wanted again meanwhile.
    if (rows.get(key) !== row) return void kick(key)
    await rows.delete(key)
    clearTimeout(live(key).retry)
    states.forget(key)
  }

  function interrupt(key: string): void {
    const state = live(key)
    state.work.abort(new ShoalError('ABORTED', 'the pod is wanted otherwise now'))
    state.work = new AbortController()
    state.failures = 0
  }

  async function watch(): Promise<void> {
    for (const [key, row] of rows.all()) {
      const state = states.find(key)
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

  return { kick, converge, interrupt, watch }
}
