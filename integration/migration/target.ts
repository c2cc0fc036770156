import { ShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import { createArriving } from './arriving.ts'
import { createConfirming } from './confirming.ts'
import { type Entry, isEnded } from './entry.ts'
import { createTargetParts, type Job, never } from './job.ts'
import { METHODS, type Outcome, readId, readOffer, readReason, readShipped } from './messages.ts'
import type { Parts } from './parts.ts'
import { createRemoval } from './removal.ts'
import { createStarting } from './starting.ts'

const RESTARTED = 'the daemon at the target was restarted'

/**
 * The end of a migration that the container comes to. It starts its copy once the source has frozen its own and said so (`start`),
 * and gives one verdict, which is in the journal before anybody hears of it: the copy runs, or it never will.
 */
export function createTarget(parts: Parts) {
  const { journal, rpc, clock, timings } = parts
  const target = createTargetParts(parts)
  const { jobs, background } = target
  const removal = createRemoval(target)
  const arriving = createArriving(target, removal)
  const confirming = createConfirming(target, removal)
  const starting = createStarting(target, removal, confirming)
  const offers = new Map<string, Promise<{ reasons: string[] }>>()

  function entryOf(peer: PeerId, id: string): Entry | undefined {
    const entry = journal.get(id)
    if (entry && (entry.role !== 'target' || entry.from !== peer)) {
      throw new ShoalError('DENIED', `migration ${id} is not between these nodes`)
    }
    return entry
  }

  /** An ID of which nothing is known is used up, so that a message which comes late starts nothing. */
  async function refuseForGood(peer: PeerId, id: string, reason: string): Promise<void> {
    const nobody = { id: 'unknown', name: 'unknown', runtime: 'runc' } as const
    await journal.add({
      id,
      role: 'target',
      container: nobody,
      from: peer,
      to: parts.self,
      state: 'refused',
      phase: 'ended',
      rounds: [],
      downtimeMs: undefined,
      restoredAt: undefined,
      startedAt: clock.now(),
      endedAt: clock.now(),
      reason,
      labels: {},
      verdict: 'never',
    })
  }

  const jobOf = (peer: PeerId, id: string): Job => {
    const entry = entryOf(peer, id)
    const job = jobs.get(id)
    if (!job || !entry || entry.verdict === 'never') {
      throw new ShoalError('ABORTED', entry?.reason ?? RESTARTED)
    }
    job.heardAt = clock.now()
    return job
  }

  rpc.handle(METHODS.offer, async (peer, body) => {
    const offer = readOffer(body)
    const known = entryOf(peer, offer.id)
    if (known) return { reasons: known.verdict === 'never' ? [known.reason ?? 'it was called off'] : [] }
    const key = `${peer} ${offer.id}`
    const under = offers.get(key) ?? arriving.consider(peer, offer).finally(() => offers.delete(key))
    offers.set(key, under)
    return await under
  })

  rpc.handle(METHODS.prepared, async (peer, body) => {
    const { preparing } = jobOf(peer, readId(body))
    // Asked again and again: an answer that takes long would count as a lost one.
    const stop = new AbortController()
    const waited = clock.sleep(timings.callMs / 2, stop.signal).then(() => false)
    return { ready: await Promise.race([preparing.then(() => true), waited]).finally(() => stop.abort()) }
  })

  rpc.handle(METHODS.round, async (peer, body) => {
    const shipped = readShipped(body)
    const job = jobOf(peer, shipped.id)
    if (job.starting) throw new ShoalError('ABORTED', 'it is being started already')
    const signal = AbortSignal.any([job.abort.signal, parts.signal])
    const fetched = await starting.assemble(job, shipped, signal)
    // A start that came meanwhile sees to it itself, and restores after that.
    if (!job.starting) await starting.unpack(job, shipped, signal)
    return { fetched }
  })

  rpc.handle(METHODS.start, async (peer, body) => {
    const shipped = readShipped(body)
    const entry = entryOf(peer, shipped.id)
    if (!entry) await refuseForGood(peer, shipped.id, RESTARTED)
    return await outcomeOf(shipped.id, (job) => {
      job.starting ??= starting.start(job, shipped)
      return job.starting
    })
  })

  rpc.handle(METHODS.cancel, async (peer, body) => {
    const id = readId(body)
    const reason = readReason(body)
    const entry = entryOf(peer, id)
    if (!entry) await refuseForGood(peer, id, reason)
    else if (await arriving.giveUp(id, reason)) return never(journal.get(id))
    return await outcomeOf(id, (job) => {
      job.abort.abort(new ShoalError('ABORTED', reason))
      return job.starting
    })
  })

  rpc.handle(METHODS.committed, async (peer, body) => {
    const id = readId(body)
    if (entryOf(peer, id)?.verdict === 'runs') await confirming.finish(id)
    return {}
  })

  /** The verdict where there is one; else what is being done about it; BUSY while that is not known. */
  async function outcomeOf(id: string, of: (job: Job) => Promise<Outcome> | undefined): Promise<Outcome> {
    const entry = journal.get(id)
    if (entry?.verdict === 'never') return never(entry)
    if (entry?.verdict === 'runs') return starting.runs(id)
    const job = jobs.get(id)
    const outcome = job ? of(job) : recovering.get(id)
    if (!outcome) throw new ShoalError('BUSY', 'the target is finding out')
    return await outcome
  }

  const recovering = new Map<string, Promise<Outcome>>()

  return {
    sweep: removal.sweep,
    /** Takes up what an earlier run of the daemon left. */
    recover(entry: Entry): void {
      if (isEnded(entry)) return
      const { id, phase, verdict } = entry
      let work: Promise<unknown>
      if (verdict === 'runs') work = confirming.arrived(id)
      else if (phase === 'preparing' || phase === 'receiving') work = arriving.giveUp(id, RESTARTED)
      else {
        const outcome = phase === 'starting' ? starting.findOut(id, RESTARTED) : removal.discard(id)
        recovering.set(id, outcome)
        const end = (): boolean => recovering.delete(id)
        outcome.then(end, end)
        work = outcome
      }
      background(id, work)
    },
    /** A person's word about a copy that runs here, or may. */
    async decide(entry: Entry, side: 'source' | 'target'): Promise<void> {
      if (entry.verdict !== 'runs')
        throw new ShoalError('BUSY', `it does not run here: node ${entry.from} is to be asked`)
      await (side === 'target' ? confirming.finish(entry.id) : confirming.yieldTo(entry.id))
    },
  }
}
