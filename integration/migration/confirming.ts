import { isEnded } from './entry.ts'
import { moveOf, type Target } from './job.ts'
import { untilDone } from './persist.ts'
import type { Removal } from './removal.ts'

/** A copy that runs here, until the source says that its own is gone. */
export function createConfirming(target: Target, removal: Removal) {
  const { journal, clock, timings, runtime, carrier, jobs, log } = target

  async function arrived(id: string): Promise<void> {
    const entry = journal.get(id)
    if (!entry?.prepared) return
    try {
      const hooks = target.hooksFor(entry.labels)
      const driver = hooks && (await runtime(entry.container.runtime))
      const container = await driver?.inspect(entry.prepared, target.signal)
      if (container) await hooks?.arrived(moveOf(entry), container, target.signal)
    } catch (error) {
      log.warn({ id, error: String(error) }, 'the owner did not take a move in')
    }
    await confirm(id)
  }

  /** Until the source says that its copy is gone. It keeps its copy frozen until it knows of this one, so this may take its time. */
  async function confirm(id: string): Promise<void> {
    const from = clock.now()
    for (let waitMs = 1000; ; waitMs = Math.min(waitMs * 2, 15e3)) {
      await clock.sleep(waitMs, target.signal)
      const entry = journal.get(id)
      if (!entry || isEnded(entry) || target.signal.aborted) return
      const standing = await target.askStanding(entry)
      if (standing === 'gone' || standing === 'unknown') return finish(id)
      if (standing === 'kept') return yieldTo(id)
      if (entry.state === 'running' && clock.now() - from > timings.overdueMs) {
        await untilDone(target, `note that migration ${id} is undecided`, () =>
          journal.write(id, {
            state: 'undecided',
            reason: `it runs here, and node ${entry.from}, where it came from, does not answer: its copy there is frozen or gone. To keep this one: shoal migrations decide ${id} target; to go back: shoal migrations decide ${id} source`,
          }),
        )
      }
    }
  }

  async function finish(id: string): Promise<void> {
    const ended = await untilDone(target, `note the end of migration ${id}`, () =>
      journal.write(id, (entry) =>
        isEnded(entry) || entry.verdict !== 'runs'
          ? undefined
          : { state: 'done', phase: 'ended', endedAt: clock.now(), reason: undefined },
      ),
    )
    if (!ended) return
    jobs.delete(id)
    await carrier.forget(id)
  }

  /** A person had the source go on: this copy is the one too many. */
  async function yieldTo(id: string): Promise<void> {
    await untilDone(target, `note that migration ${id} is undone`, () =>
      journal.write(id, {
        phase: 'discarding',
        verdict: 'never',
        reason: 'it was decided that the source runs',
      }),
    )
    await removal.discard(id)
  }

  return { arrived, finish, yieldTo }
}

export type Confirming = ReturnType<typeof createConfirming>
