import { ShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import type { Place } from '../runtime/types.ts'
import { type Entry, isEnded } from './entry.ts'
import { type Job, LABEL, moveOf, type Target } from './job.ts'
import type { Offer } from './messages.ts'
import { untilDone } from './persist.ts'
import type { Removal } from './removal.ts'

/** A migration to here until it is started: judged, prepared, or given up. */
export function createArriving(target: Target, removal: Removal) {
  const { journal, clock, timings, runtime, judge, jobs, background } = target

  function entryFor(peer: PeerId, offer: Offer): Entry {
    return {
      id: offer.id,
      role: 'target',
      container: offer.container,
      from: peer,
      to: target.self,
      state: 'running',
      phase: 'preparing',
      rounds: [],
      downtimeMs: undefined,
      restoredAt: undefined,
      startedAt: clock.now(),
      endedAt: undefined,
      reason: undefined,
      labels: offer.recreation.labels,
      health: offer.health,
    }
  }

  async function consider(peer: PeerId, offer: Offer): Promise<{ reasons: string[] }> {
    const { signal } = target
    const draft = entryFor(peer, offer)
    const busy = journal
      .list()
      .some(
        (each) => each.role === 'target' && !isEnded(each) && each.container.name === offer.container.name,
      )
    if (busy) return { reasons: [`another container ${offer.container.name} is on its way here`] }
    const hooks = target.hooksFor(draft.labels)
    const { labels = {}, ...place } = hooks ? await hooks.prepare(moveOf(draft), signal) : {}
    const drop = async (): Promise<void> =>
      void (await hooks?.discarded(moveOf(draft), signal).catch(() => {}))
    try {
      const { reasons, image } = await judge.coming(offer, { place, signal })
      if (reasons.length === 0 && (await journal.add(draft))) {
        begin(draft, offer, { image, labels, place })
        return { reasons }
      }
      await drop()
      return { reasons: reasons.length > 0 ? reasons : ['it was called off'] }
    } catch (error) {
      await drop()
      throw error
    }
  }

  function begin(
    entry: Entry,
    offer: Offer,
    with_: { image: string | undefined; labels: Record<string, string>; place: Place },
  ): void {
    const abort = new AbortController()
    const signal = AbortSignal.any([abort.signal, target.signal])
    const { id, container } = entry
    const preparing = (async () => {
      const driver = await runtime(container.runtime)
      const made = await driver.prepare(
        {
          name: container.name,
          recreation: await judge.adapted(offer.recreation, offer),
          image: with_.image,
          ...with_.place,
          labels: { ...with_.labels, [LABEL]: id },
        },
        signal,
      )
      await journal.write(id, ({ phase }) => ({
        prepared: made.id,
        // It may have been given up meanwhile.
        phase: phase === 'preparing' ? 'receiving' : phase,
      }))
      return made
    })()
    const job: Job = {
      offer,
      abort,
      preparing,
      assembling: undefined,
      assembled: undefined,
      applied: undefined,
      unpacking: Promise.resolve(),
      fetched: 0,
      starting: undefined,
      heardAt: clock.now(),
    }
    jobs.set(id, job)
    preparing.catch((error: Error) => {
      background(id, giveUp(id, `the container could not be prepared: ${error.message}`))
    })
    background(id, watchSilence(id, job))
  }

  /** Before anything was started: the verdict first, then tidying up. False if it may have been started. */
  async function giveUp(id: string, reason: string): Promise<boolean> {
    const changed = await untilDone(target, `note that migration ${id} is given up`, () =>
      journal.write(id, ({ phase, verdict }) =>
        verdict === undefined && (phase === 'preparing' || phase === 'receiving')
          ? { verdict: 'never', phase: 'discarding', reason }
          : undefined,
      ),
    )
    if (!changed) return journal.get(id)?.verdict === 'never'
    jobs.get(id)?.abort.abort(new ShoalError('ABORTED', reason))
    background(id, removal.discard(id))
    return true
  }

  /** A source that says nothing any more may be dead, or have forgotten this one. */
  async function watchSilence(id: string, job: Job): Promise<void> {
    while (!target.signal.aborted) {
      await clock.sleep(timings.silentMs, target.signal)
      const entry = journal.get(id)
      if (!entry || (entry.phase !== 'preparing' && entry.phase !== 'receiving')) return
      if (clock.now() - job.heardAt < timings.silentMs) continue
      const standing = await target.askStanding(entry)
      if (standing === 'going') job.heardAt = clock.now()
      else if (standing !== undefined) return void (await giveUp(id, 'the source gave it up'))
      else if (clock.now() - job.heardAt > timings.patienceMs)
        return void (await giveUp(id, 'nothing was heard from the source any more'))
    }
  }

  return { consider, giveUp }
}

export type Arriving = ReturnType<typeof createArriving>
