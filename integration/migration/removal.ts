import { isShoalError, ShoalError } from '../../base/index.ts'
import { type Entry, isEnded } from './entry.ts'
import { LABEL, moveOf, never, type Target } from './job.ts'
import type { Outcome } from './messages.ts'
import { untilDone } from './persist.ts'

/** How long a runtime may go on with what a daemon asked it for that is dead. */
const SWEEP_MS = 60e3
/** Migrations that ended longer ago are not looked after. */
const SWEPT_MS = 3600e3

/** Takes away what a migration to here has made. */
export function createRemoval(target: Target) {
  const { journal, carrier, clock, jobs, runtime, log, background } = target
  /** Under way, so that each is done once. */
  const discards = new Map<string, Promise<Outcome>>()

  /** Removes what was made here and makes sure that nothing of it runs; then gives the verdict. Tried until it works. */
  function discard(id: string): Promise<Outcome> {
    const under = discards.get(id)
    if (under) return under
    const work = (async (): Promise<Outcome> => {
      await jobs.get(id)?.preparing.catch(() => {})
      const entry = journal.get(id)
      if (!entry) return never(entry)
      await untilDone(target, `remove what migration ${id} made here`, async (signal) => {
        await carrier.quiet(id, signal)
        await removeCopies(entry, signal)
      })
      await carrier.forget(id)
      const hooks = target.hooksFor(entry.labels)
      await hooks
        ?.discarded(moveOf(entry), target.signal)
        .catch((error) => log.warn({ id, error: String(error) }, 'the owner did not take a move back'))
      const ended = await untilDone(target, `note the end of migration ${id}`, () =>
        journal.write(id, ({ frozenAt }) => ({
          verdict: 'never',
          phase: 'ended',
          endedAt: clock.now(),
          state: frozenAt === undefined ? 'failed' : 'rolled-back',
        })),
      )
      jobs.delete(id)
      return never(ended)
    })()
    discards.set(id, work)
    const end = (): boolean => discards.delete(id)
    work.then(end, end)
    return work
  }

  async function removeCopies(entry: Entry, signal: AbortSignal): Promise<void> {
    const driver = await runtime(entry.container.runtime)
    const found = (await driver.list(signal)).filter(({ labels }) => labels[LABEL] === entry.id)
    const ids = new Set([...found.map(({ id }) => id), ...(entry.prepared ? [entry.prepared] : [])])
    for (const id of ids) {
      const made = await driver.prepared(id, signal).catch((error: unknown) => {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      })
      await made?.discard(signal)
      const left = await driver.inspect(id, signal).catch((error: unknown) => {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      })
      if (left?.id === id) throw new ShoalError('RUNTIME', `container ${id} is still there`)
    }
  }

  async function sweepOne(id: string): Promise<void> {
    await clock.sleep(SWEEP_MS, target.signal)
    await untilDone(target, `look for what migration ${id} has left`, async (signal) => {
      const entry = journal.get(id)
      if (entry?.verdict === 'never' && isEnded(entry)) await removeCopies(entry, signal)
    })
  }

  return {
    discard,
    /** Removes what a runtime still made when the daemon that had asked for it was dead, and its migration given up. */
    sweep(): void {
      const since = clock.now() - SWEPT_MS
      for (const { id, role, verdict, state, endedAt } of journal.list()) {
        const late = role === 'target' && verdict !== 'runs' && (endedAt ?? since) >= since
        if (late && state !== 'refused') background(id, sweepOne(id))
      }
    },
  }
}

export type Removal = ReturnType<typeof createRemoval>
