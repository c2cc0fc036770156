import type { Log } from '../../../base/index.ts'
import { type AppRecord, type Apps, isUp, rest } from './apps.ts'

/** The longest that a timer of Node's can wait. */
const LONGEST_MS = 2 ** 31 - 1

/** Execution times: they count from when all of an application runs, and then it goes back to being registered. */
export interface Ends {
  /** What is known of the application has changed: its time may begin. */
  applied(record: AppRecord): void
  /** Waits for the end that is written down. */
  watch(record: AppRecord): void
  forget(id: string): void
  close(): void
}

export function createEnds(deps: {
  apps: Apps
  kick: (id: string) => void
  log: Log
  now: () => number
}): Ends {
  const { apps, kick, log, now } = deps
  const ends = new Map<string, NodeJS.Timeout>()

  function applied(record: AppRecord): void {
    if (!record.pods.every(isUp) || record.endsAt !== undefined) return
    const seconds = record.spec.executionTimeS
    if (seconds === undefined) return
    record.endsAt = now() + seconds * 1000
    apps.save(record).catch((error) => log.warn({ err: error }, 'an end is not written down'))
    watch(record)
  }

  function watch(record: AppRecord): void {
    clearTimeout(ends.get(record.id))
    if (record.endsAt === undefined) return
    const timer = setTimeout(
      () => void over(record.id),
      Math.min(LONGEST_MS, Math.max(0, record.endsAt - now())),
    )
    timer.unref()
    ends.set(record.id, timer)
  }

  async function over(id: string): Promise<void> {
    const record = apps.get(id)
    if (record?.endsAt === undefined || record.wanted !== 'running') return
    if (record.endsAt > now()) return watch(record)
    rest(record, [`its execution time of ${record.spec.executionTimeS} s is over`])
    await apps.save(record)
    kick(id)
  }

  return {
    applied,
    watch,
    forget(id) {
      clearTimeout(ends.get(id))
      ends.delete(id)
    },
    close() {
      for (const end of ends.values()) clearTimeout(end)
    },
  }
}
