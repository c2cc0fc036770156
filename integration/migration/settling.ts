import { isShoalError, ShoalError } from '../../base/index.ts'
import type { Runtime } from '../runtime/types.ts'
import type { Calls } from './calls.ts'
import type { Entry } from './entry.ts'
import { moveOf } from './job.ts'
import type { Changes } from './journal.ts'
import type { Outcome, Shipped } from './messages.ts'
import type { Parts } from './parts.ts'
import { untilDone } from './persist.ts'

/** What becomes of a frozen container: removed by the target's word, or resumed by it, or by a person's. */
export function createSettling(parts: Parts, calls: Calls) {
  const { journal, clock, timings, carrier, log } = parts
  /** Wakes a migration that waits for the target's word, since a person gave theirs. */
  const wakes = new Map<string, AbortController>()
  /** What `start` says, for as long as it makes sense to say it: after a restart the source wants its container back instead. */
  const shippings = new Map<string, Shipped>()

  const driverOf = ({ container }: Entry): Promise<Runtime> => parts.runtime(container.runtime)
  const entryOf = (id: string): Entry => {
    const entry = journal.get(id)
    if (!entry) throw new ShoalError('NOT_FOUND', `no migration ${id}`)
    return entry
  }

  /** @throws NOT_FOUND | ABORTED (`changes` gave none) */
  async function step(id: string, changes: Changes): Promise<Entry> {
    const entry = await journal.write(id, changes)
    if (!entry) {
      entryOf(id)
      throw new ShoalError('ABORTED', 'it was called off')
    }
    log.info({ id, container: entry.container.name, phase: entry.phase }, 'migration')
    return entry
  }

  /** The target may have started: its word decides, or a person's. */
  async function settle(id: string): Promise<void> {
    const from = clock.now()
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, 2000)) {
      const entry = entryOf(id)
      if (entry.forced === 'source') return resume(id, 'it was decided that the source runs')
      if (entry.forced === 'target') return commit(id, undefined)
      const wake = new AbortController()
      wakes.set(id, wake)
      const either = AbortSignal.any([parts.signal, wake.signal])
      try {
        const overdue = clock.now() - from > timings.overdueMs
        const shipped = overdue ? undefined : shippings.get(id)
        const outcome = shipped
          ? await calls.start(entry.to, shipped, either)
          : await calls.cancel(entry.to, id, 'the source wants to go on', either)
        if (outcome.verdict === 'runs') return await commit(id, outcome)
        return await resume(id, outcome.reason)
      } catch (error) {
        if (parts.signal.aborted) return
        log.debug({ id, error: String(error) }, 'the target has not said what runs')
        if (entry.state === 'running' && clock.now() - from > timings.overdueMs)
          await ask(entry).catch(() => {})
        await clock.sleep(waitMs, either)
      } finally {
        wakes.delete(id)
      }
    }
  }

  async function ask({ id, to }: Entry): Promise<void> {
    await step(id, {
      state: 'undecided',
      reason: `the container is frozen here, and node ${to} does not say whether it runs there. Look there. If it runs: shoal migrations decide ${id} target. If it does not, and never will: shoal migrations decide ${id} source`,
    })
  }

  async function commit(
    id: string,
    outcome: Extract<Outcome, { verdict: 'runs' }> | undefined,
  ): Promise<void> {
    const { frozenAt, rounds } = entryOf(id)
    const restoredAt = outcome && clock.now() - outcome.sinceMs
    const downtimeMs = restoredAt && frozenAt ? Math.max(0, restoredAt - frozenAt) : undefined
    const last = rounds.at(-1)
    const known = last?.frozen && downtimeMs !== undefined
    const entry = await untilDone(parts, `note that migration ${id} runs at the target`, () =>
      step(id, {
        phase: 'committing',
        downtimeMs,
        restoredAt,
        ...(known ? { rounds: [...rounds.slice(0, -1), { ...last, seconds: downtimeMs / 1000 }] } : {}),
      }),
    )
    await finishCommit(entry)
  }

  async function finishCommit(entry: Entry): Promise<void> {
    const { id } = entry
    await untilDone(parts, `remove the frozen container of migration ${id}`, async (signal) => {
      await (await driverOf(entry)).remove(entry.container.id, signal)
    })
    await parts
      .hooksFor(entry.labels)
      ?.left(moveOf(entry), parts.signal)
      .catch((error) => log.warn({ id, error: String(error) }, 'the owner did not let a move go'))
    await untilDone(parts, `note the end of migration ${id}`, () =>
      step(id, { state: 'done', phase: 'ended', endedAt: clock.now(), reason: undefined }),
    )
    await tidy(id)
    await calls.committed(entry.to, id, parts.signal)
  }

  /**
   * The container goes on here. Not given up for a daemon that stops: a container is not left frozen where it need not be.
   */
  async function resume(id: string, reason: string): Promise<void> {
    const patient = { ...parts, signal: new AbortController().signal }
    const entry = await untilDone(patient, `note that migration ${id} is taken back`, () =>
      step(id, { phase: 'resuming', reason }),
    )
    await finishResume(entry, patient)
  }

  async function finishResume(entry: Entry, patient: Parts): Promise<void> {
    const { id, container, frozenAt } = entry
    const gone = await untilDone(patient, `resume the container of migration ${id}`, async (signal) => {
      const driver = await driverOf(entry)
      try {
        await driver.resume(container.id, signal)
        return false
      } catch (error) {
        const found = await driver.inspect(container.id, signal).catch((failure: unknown) => {
          if (isShoalError(failure, 'NOT_FOUND')) return undefined
          throw failure
        })
        // It died while it was frozen.
        if (found === undefined || found.state === 'stopped' || found.state === 'created') return true
        throw error
      }
    })
    await untilDone(patient, `note the end of migration ${id}`, () =>
      step(id, {
        state: gone ? 'failed' : 'rolled-back',
        phase: 'ended',
        endedAt: clock.now(),
        ...(gone ? { reason: `${entry.reason}; and the container no longer runs here` } : {}),
        ...(frozenAt === undefined || gone ? {} : { downtimeMs: clock.now() - frozenAt }),
      }),
    )
    await tidy(id)
    await calls.callOff(entry.to, id, entry.reason ?? 'it was taken back', parts.signal)
  }

  async function tidy(id: string): Promise<void> {
    shippings.delete(id)
    await carrier.forget(id)
  }

  return {
    entryOf,
    driverOf,
    step,
    settle,
    resume,
    finishResume,
    finishCommit,
    tidy,
    handedOver: (shipped: Shipped): void => void shippings.set(shipped.id, shipped),
    /** A person's word is in the journal. */
    wake: (id: string): void => wakes.get(id)?.abort(),
  }
}
