import type { PodPhase, PodReport } from '../executor.ts'
import type { Row, Rows } from './rows.ts'

/** What of a pod is in memory only: it is found out again after a restart. */
export interface Live {
  phase: PodPhase
  pid: number | undefined
  startedAt: number
  failures: number
  /** When the next try is due; undefined: now. */
  retry: NodeJS.Timeout | undefined
  reason: string | undefined
  work: AbortController
}

/** How far the pods of this node are, and who is told of it. */
export interface PodStates {
  /** Made when it is asked for first. */
  live(key: string): Live
  find(key: string): Live | undefined
  all(): IterableIterator<Live>
  report(key: string, row: Row): PodReport
  /** The listeners hear of it when it is not what they heard last. */
  tell(key: string): void
  set(key: string, phase: PodPhase, reason?: string): void
  forget(key: string): void
  onReport(listener: (report: PodReport) => void): () => void
}

export function createPodStates({ rows, address }: { rows: Rows; address: () => string }): PodStates {
  const lives = new Map<string, Live>()
  const listeners = new Set<(report: PodReport) => void>()
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
      referenceURI: reachable ? `http://${address()}:${first.host}` : undefined,
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

  return {
    live,
    report,
    tell,
    set,
    find: (key) => lives.get(key),
    all: () => lives.values(),
    forget(key) {
      lives.delete(key)
      said.delete(key)
    },
    onReport(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }
}
