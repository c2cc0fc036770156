import { formatBytes, type Log } from '../../../base/index.ts'
import type { PodDriver } from '../executor.ts'
import { containerName } from './labels.ts'
import type { PodLoop } from './loop.ts'
import type { Row, Rows } from './rows.ts'
import type { PodStates } from './states.ts'

const LOOK_MS = 10e3
/** A layer of very many files takes long to count: no more than this share of the time goes into it. */
const SHARE = 0.01

/**
 * Stops pods whose writable layer has outgrown what they asked for, as a kubelet evicts them: file systems of edge nodes rarely have
 * quotas of their own. Of what is written in between nothing is known, so a pod may be over for some seconds.
 */
export function createQuota(deps: {
  rows: Rows
  states: PodStates
  driver: PodDriver
  loop: PodLoop
  everyMs?: number | undefined
  signal: AbortSignal
  log: Log
}): { close(): void } {
  const { rows, states, driver, loop, everyMs = LOOK_MS, signal, log } = deps
  /** When the pod is to be looked at next. */
  const due = new Map<string, number>()
  let looking = false

  const isBounded = (key: string, row: Row): boolean =>
    row.wanted === 'there' &&
    row.stopped === undefined &&
    row.moving === undefined &&
    row.order.spec.storage > 0 &&
    states.find(key)?.phase === 'running'

  async function look(): Promise<void> {
    for (const key of due.keys()) if (rows.get(key) === undefined) due.delete(key)
    for (const [key, row] of [...rows.all()]) {
      if (signal.aborted) return
      if (!isBounded(key, row) || (due.get(key) ?? 0) > performance.now()) continue
      const from = performance.now()
      const used = await driver.usage(containerName(row.order), signal).catch((error) => {
        if (!signal.aborted) log.warn({ err: error, pod: key }, 'the storage of a pod cannot be measured')
        return undefined
      })
      const now = performance.now()
      due.set(key, now + (now - from) / SHARE)
      if (used !== undefined && used > row.order.spec.storage) await stop(key, row, used)
    }
  }

  async function stop(key: string, row: Row, used: number): Promise<void> {
    if (rows.get(key) !== row) return
    const { storage } = row.order.spec
    const reason = `it was stopped: it had ${formatBytes(used)} in its writable layer, and asked for ${formatBytes(storage)} of storage`
    log.warn({ pod: key, used, storage }, 'a pod outgrew its storage and is stopped')
    await rows.put(key, { ...row, stopped: reason })
    loop.interrupt(key)
    loop.kick(key)
  }

  const timer = setInterval(() => {
    if (looking) return
    looking = true
    void look()
      .catch((error) => {
        if (!signal.aborted) log.warn({ err: error }, 'a pod that outgrew its storage is not stopped yet')
      })
      .finally(() => {
        looking = false
      })
  }, everyMs)
  timer.unref()

  return { close: () => clearInterval(timer) }
}
