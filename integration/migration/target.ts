import { type Digest, isShoalError, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import type { Prepared } from '../runtime/types.ts'
import { type Entry, isEnded } from './entry.ts'
import {
  METHODS,
  type Offer,
  type Outcome,
  readId,
  readOffer,
  readReason,
  readShipped,
  readStanding,
  type Shipped,
  type Standing,
} from './messages.ts'
import type { Parts } from './parts.ts'
import { untilDone } from './persist.ts'
import type { Move } from './types.ts'

/** Label of a container that a migration made: the ID of the migration. Finds one whose daemon died before it noted it. */
export const LABEL = 'shoal.migration'
/** How long a runtime may go on with what a daemon asked it for that is dead. */
const SWEEP_MS = 60e3
/** Migrations that ended longer ago are not looked after. */
const SWEPT_MS = 3600e3
const RESTARTED = 'the daemon at the target was restarted'

/** What is only in memory of a migration to here: after a restart one that was not started yet is given up. */
interface Job {
  offer: Offer
  /** Calls off whatever is being done before anything was started. */
  abort: AbortController
  preparing: Promise<Prepared>
  assembling: { recipe: Digest; work: Promise<number> } | undefined
  /** What its directory holds, and how much of it came over the network. */
  assembled: { recipe: Digest; fetched: number } | undefined
  applied: Digest | undefined
  fetched: number
  starting: Promise<Outcome> | undefined
  heardAt: number
}

/**
 * The end of a migration that the container comes to. It starts its copy once the source has frozen its own and said so (`start`),
 * and gives one verdict, which is in the journal before anybody hears of it: the copy runs, or it never will.
 */
export function createTarget(parts: Parts) {
  const { journal, rpc, clock, timings, runtime, carrier, judge, log } = parts
  const jobs = new Map<string, Job>()
  const offers = new Map<string, Promise<{ reasons: string[] }>>()
  /** Since when copies run whose health is not known yet; for the downtime that is told. */
  const runningSince = new Map<string, number>()
  /** Discards under way, so that each is done once. */
  const discards = new Map<string, Promise<Outcome>>()

  function entryOf(peer: PeerId, id: string): Entry | undefined {
    const entry = journal.get(id)
    if (entry && (entry.role !== 'target' || entry.from !== peer)) {
      throw new ShoalError('DENIED', `migration ${id} is not between these nodes`)
    }
    return entry
  }

  /** Such work ends by itself, or with the daemon, whose successor takes it up. */
  function background(id: string, work: Promise<unknown>): void {
    work.catch((error) => {
      if (!parts.signal.aborted) log.error({ id, error: String(error) }, 'a migration to here broke')
    })
  }

  const moveOf = ({ id, container, labels, from, to }: Entry): Move => ({
    ...{ id, from, to },
    container: { ...container, labels },
  })

  const never = (entry: Entry | undefined): Outcome => ({
    verdict: 'never',
    reason: entry?.reason ?? 'the target knows nothing of it',
  })

  function entryFor(peer: PeerId, offer: Offer): Entry {
    return {
      ...{ id: offer.id, role: 'target', container: offer.container, from: peer, to: parts.self },
      ...{ state: 'running', phase: 'preparing', rounds: [], downtimeMs: undefined },
      ...{ startedAt: clock.now(), endedAt: undefined, reason: undefined },
      labels: offer.recreation.labels,
      health: offer.health,
    }
  }

  /** An ID of which nothing is known is used up, so that a message which comes late starts nothing. */
  async function refuseForGood(peer: PeerId, id: string, reason: string): Promise<void> {
    const nobody = { id: 'unknown', name: 'unknown', runtime: 'runc' } as const
    await journal.add({
      ...{ id, role: 'target', container: nobody, from: peer, to: parts.self, state: 'refused' },
      ...{ phase: 'ended', rounds: [], downtimeMs: undefined, startedAt: clock.now(), endedAt: clock.now() },
      ...{ reason, labels: {}, verdict: 'never' },
    })
  }

  async function consider(peer: PeerId, offer: Offer): Promise<{ reasons: string[] }> {
    const { signal } = parts
    const draft = entryFor(peer, offer)
    const busy = journal
      .list()
      .some(
        (each) => each.role === 'target' && !isEnded(each) && each.container.name === offer.container.name,
      )
    if (busy) return { reasons: [`another container ${offer.container.name} is on its way here`] }
    const hooks = parts.hooksFor(draft.labels)
    const given = hooks ? await hooks.prepare(moveOf(draft), signal) : {}
    const drop = async (): Promise<void> =>
      void (await hooks?.discarded(moveOf(draft), signal).catch(() => {}))
    try {
      const { reasons, image } = await judge.coming(offer, { netns: given.netns, signal })
      if (reasons.length === 0 && (await journal.add(draft))) {
        begin(draft, offer, { image, labels: given.labels ?? {}, netns: given.netns })
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
    with_: { image: string | undefined; labels: Record<string, string>; netns: string | undefined },
  ): void {
    const abort = new AbortController()
    const signal = AbortSignal.any([abort.signal, parts.signal])
    const { id, container } = entry
    const preparing = (async () => {
      const driver = await runtime(container.runtime)
      const made = await driver.prepare(
        {
          name: container.name,
          recreation: await judge.adapted(offer.recreation, offer),
          image: with_.image,
          ...(with_.netns === undefined ? {} : { netns: with_.netns }),
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
      ...{ offer, abort, preparing, assembling: undefined, assembled: undefined, applied: undefined },
      ...{ fetched: 0, starting: undefined, heardAt: clock.now() },
    }
    jobs.set(id, job)
    preparing.catch((error: Error) => {
      background(id, giveUp(id, `the container could not be prepared: ${error.message}`))
    })
    background(id, watchSilence(id, job))
  }

  /** Before anything was started: the verdict first, then tidying up. False if it may have been started. */
  async function giveUp(id: string, reason: string): Promise<boolean> {
    const changed = await untilDone(parts, `note that migration ${id} is given up`, () =>
      journal.write(id, ({ phase, verdict }) =>
        verdict === undefined && (phase === 'preparing' || phase === 'receiving')
          ? { verdict: 'never', phase: 'discarding', reason }
          : undefined,
      ),
    )
    if (!changed) return journal.get(id)?.verdict === 'never'
    jobs.get(id)?.abort.abort(new ShoalError('ABORTED', reason))
    background(id, discard(id))
    return true
  }

  /** Removes what was made here and makes sure that nothing of it runs; then gives the verdict. Tried until it works. */
  function discard(id: string): Promise<Outcome> {
    const under = discards.get(id)
    if (under) return under
    const work = (async (): Promise<Outcome> => {
      await jobs.get(id)?.preparing.catch(() => {})
      const entry = journal.get(id)
      if (!entry) return never(entry)
      await untilDone(parts, `remove what migration ${id} made here`, async (signal) => {
        await carrier.quiet(id, signal)
        await removeCopies(entry, signal)
      })
      await carrier.forget(id)
      const hooks = parts.hooksFor(entry.labels)
      await hooks
        ?.discarded(moveOf(entry), parts.signal)
        .catch((error) => log.warn({ id, error: String(error) }, 'the owner did not take a move back'))
      const ended = await untilDone(parts, `note the end of migration ${id}`, () =>
        journal.write(id, ({ frozenAt }) => ({
          ...{ verdict: 'never', phase: 'ended', endedAt: clock.now() },
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

  function assemble(job: Job, { id, recipe }: Shipped, signal: AbortSignal): Promise<number> {
    if (job.assembled?.recipe === recipe) return Promise.resolve(job.assembled.fetched)
    if (job.assembling?.recipe === recipe) return job.assembling.work
    const before = job.assembling?.work.catch(() => {}) ?? Promise.resolve()
    const work = (async () => {
      await before
      const previous = job.assembled
      // What a failure leaves is neither the one state nor the other.
      job.assembled = undefined
      const { fetched } = await carrier.assemble({ id, recipe, previous: previous?.recipe, signal })
      job.assembled = { recipe, fetched }
      return fetched
    })()
    const assembling = { recipe, work }
    job.assembling = assembling
    const end = (): void => {
      if (job.assembling === assembling) job.assembling = undefined
    }
    work.then(end, end)
    return work
  }

  /** The writable layer too is there before the freeze; only where it changed since is it unpacked again. */
  async function unpack(job: Job, shipped: Shipped, signal: AbortSignal): Promise<void> {
    if (job.applied === shipped.writable) return
    job.applied = undefined
    await carrier.unpack(shipped.id, await job.preparing, signal)
    job.applied = shipped.writable
  }

  async function start(job: Job, shipped: Shipped): Promise<Outcome> {
    const { id } = shipped
    const signal = AbortSignal.any([job.abort.signal, parts.signal])
    try {
      const noted = job.preparing.then(() =>
        journal.write(id, ({ verdict, phase }) =>
          verdict === undefined && phase === 'receiving'
            ? { phase: 'starting', recipe: shipped.recipe, frozenAt: clock.now() }
            : undefined,
        ),
      )
      const [entry] = await Promise.all([
        noted,
        retried(() => assemble(job, shipped, signal), signal).then((fetched) => {
          job.fetched = fetched
        }),
      ])
      if (!entry) throw new ShoalError('ABORTED', journal.get(id)?.reason ?? 'it was called off')
      log.info({ id, container: entry.container.name, phase: 'starting' }, 'migration')
      await unpack(job, shipped, signal)
      signal.throwIfAborted()
      await (await job.preparing).start(carrier.images(id), parts.signal)
      runningSince.set(id, clock.now())
    } catch (error) {
      return failStart(id, (error as Error).message)
    }
    return prove(id)
  }

  async function failStart(id: string, reason: string): Promise<Outcome> {
    // The daemon stops: its successor finds out what is there.
    if (parts.signal.aborted) throw new ShoalError('ABORTED', 'the daemon is stopping')
    log.warn({ id, reason }, 'a migrated container did not start')
    await untilDone(parts, `note that migration ${id} failed`, () =>
      journal.write(id, { phase: 'discarding', reason }),
    )
    return discard(id)
  }

  /** The copy runs: whether it does so well decides. */
  async function prove(id: string): Promise<Outcome> {
    const entry = journal.get(id)
    if (!entry?.prepared) return never(entry)
    try {
      await parts.health({
        container: entry.prepared,
        runtime: await runtime(entry.container.runtime),
        check: entry.health,
        withinMs: timings.healthMs,
        signal: parts.signal,
      })
    } catch (error) {
      return failStart(id, `it was restored, but is not healthy: ${(error as Error).message}`)
    }
    await untilDone(parts, `note that migration ${id} arrived`, () =>
      journal.write(id, { verdict: 'runs', phase: 'confirming' }),
    )
    background(id, arrived(id))
    return runs(id)
  }

  function runs(id: string): Outcome {
    const since = runningSince.get(id)
    const sinceMs = since === undefined ? 0 : clock.now() - since
    return { verdict: 'runs', sinceMs, fetched: jobs.get(id)?.fetched ?? 0 }
  }

  async function arrived(id: string): Promise<void> {
    const entry = journal.get(id)
    if (!entry?.prepared) return
    try {
      const hooks = parts.hooksFor(entry.labels)
      const driver = hooks && (await runtime(entry.container.runtime))
      const container = await driver?.inspect(entry.prepared, parts.signal)
      if (container) await hooks?.arrived(moveOf(entry), container, parts.signal)
    } catch (error) {
      log.warn({ id, error: String(error) }, 'the owner did not take a move in')
    }
    await confirm(id)
  }

  async function askStanding(entry: Entry): Promise<Standing | undefined> {
    try {
      const body = { id: entry.id }
      const answer = await rpc.request(entry.from, METHODS.status, body, {
        signal: parts.signal,
        timeoutMs: timings.callMs,
      })
      return readStanding(answer)
    } catch {
      return undefined
    }
  }

  /** Until the source says that its copy is gone. It keeps its copy frozen until it knows of this one, so this may take its time. */
  async function confirm(id: string): Promise<void> {
    const from = clock.now()
    for (let waitMs = 1000; ; waitMs = Math.min(waitMs * 2, 15e3)) {
      await clock.sleep(waitMs, parts.signal)
      const entry = journal.get(id)
      if (!entry || isEnded(entry) || parts.signal.aborted) return
      const standing = await askStanding(entry)
      if (standing === 'gone' || standing === 'unknown') return finish(id)
      if (standing === 'kept') return yieldTo(id)
      if (entry.state === 'running' && clock.now() - from > timings.overdueMs) {
        await untilDone(parts, `note that migration ${id} is undecided`, () =>
          journal.write(id, {
            state: 'undecided',
            reason: `it runs here, and node ${entry.from}, where it came from, does not answer: its copy there is frozen or gone. To keep this one: shoal migrations decide ${id} target; to go back: shoal migrations decide ${id} source`,
          }),
        )
      }
    }
  }

  async function finish(id: string): Promise<void> {
    const ended = await untilDone(parts, `note the end of migration ${id}`, () =>
      journal.write(id, (entry) =>
        isEnded(entry) || entry.verdict !== 'runs'
          ? undefined
          : { state: 'done', phase: 'ended', endedAt: clock.now(), reason: undefined },
      ),
    )
    if (!ended) return
    jobs.delete(id)
    runningSince.delete(id)
    await carrier.forget(id)
  }

  /** A person had the source go on: this copy is the one too many. */
  async function yieldTo(id: string): Promise<void> {
    await untilDone(parts, `note that migration ${id} is undone`, () =>
      journal.write(id, {
        phase: 'discarding',
        verdict: 'never',
        reason: 'it was decided that the source runs',
      }),
    )
    await discard(id)
  }

  /** A source that says nothing any more may be dead, or have forgotten this one. */
  async function watchSilence(id: string, job: Job): Promise<void> {
    while (!parts.signal.aborted) {
      await clock.sleep(timings.silentMs, parts.signal)
      const entry = journal.get(id)
      if (!entry || (entry.phase !== 'preparing' && entry.phase !== 'receiving')) return
      if (clock.now() - job.heardAt < timings.silentMs) continue
      const standing = await askStanding(entry)
      if (standing === 'going') job.heardAt = clock.now()
      else if (standing !== undefined) return void (await giveUp(id, 'the source gave it up'))
      else if (clock.now() - job.heardAt > timings.patienceMs)
        return void (await giveUp(id, 'nothing was heard from the source any more'))
    }
  }

  /** Nodes that hold the state may be out of reach for a while. */
  async function retried<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const until = clock.now() + timings.patienceMs / 2
    for (;;) {
      try {
        return await work()
      } catch (error) {
        const passing = isShoalError(
          error,
          'UPSTREAM_UNREACHABLE',
          'PEER_GONE',
          'TIMEOUT',
          'BUSY',
          'BLOCK_MISSING',
        )
        if (!passing || signal.aborted || clock.now() > until) throw error
        await clock.sleep(500, signal)
      }
    }
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
    const under = offers.get(key) ?? consider(peer, offer).finally(() => offers.delete(key))
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
    const fetched = await assemble(job, shipped, signal)
    await unpack(job, shipped, signal)
    return { fetched }
  })

  rpc.handle(METHODS.start, async (peer, body) => {
    const shipped = readShipped(body)
    const entry = entryOf(peer, shipped.id)
    if (!entry) await refuseForGood(peer, shipped.id, RESTARTED)
    return await outcomeOf(shipped.id, (job) => {
      job.starting ??= start(job, shipped)
      return job.starting
    })
  })

  rpc.handle(METHODS.cancel, async (peer, body) => {
    const id = readId(body)
    const reason = readReason(body)
    const entry = entryOf(peer, id)
    if (!entry) await refuseForGood(peer, id, reason)
    else if (await giveUp(id, reason)) return never(journal.get(id))
    return await outcomeOf(id, (job) => {
      job.abort.abort(new ShoalError('ABORTED', reason))
      return job.starting
    })
  })

  rpc.handle(METHODS.committed, async (peer, body) => {
    const id = readId(body)
    if (entryOf(peer, id)?.verdict === 'runs') await finish(id)
    return {}
  })

  /** The verdict where there is one; else what is being done about it; BUSY while that is not known. */
  async function outcomeOf(id: string, of: (job: Job) => Promise<Outcome> | undefined): Promise<Outcome> {
    const entry = journal.get(id)
    if (entry?.verdict === 'never') return never(entry)
    if (entry?.verdict === 'runs') return runs(id)
    const job = jobs.get(id)
    const outcome = job ? of(job) : recovering.get(id)
    if (!outcome) throw new ShoalError('BUSY', 'the target is finding out')
    return await outcome
  }

  const recovering = new Map<string, Promise<Outcome>>()

  async function findOut(id: string): Promise<Outcome> {
    const entry = journal.get(id)
    const running = await untilDone(parts, `find out what became of migration ${id}`, async (signal) => {
      await carrier.quiet(id, signal)
      if (entry?.prepared === undefined) return false
      const driver = await runtime(entry.container.runtime)
      const found = await driver.inspect(entry.prepared, signal).catch((error: unknown) => {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      })
      return found?.state === 'running' && found.pid !== undefined
    })
    return running ? prove(id) : failStart(id, RESTARTED)
  }

  async function sweepOne(id: string): Promise<void> {
    await clock.sleep(SWEEP_MS, parts.signal)
    await untilDone(parts, `look for what migration ${id} has left`, async (signal) => {
      const entry = journal.get(id)
      if (entry?.verdict === 'never' && isEnded(entry)) await removeCopies(entry, signal)
    })
  }

  return {
    /** Removes what a runtime still made when the daemon that had asked for it was dead, and its migration given up. */
    sweep(): void {
      const since = clock.now() - SWEPT_MS
      for (const { id, role, verdict, state, endedAt } of journal.list()) {
        const late = role === 'target' && verdict !== 'runs' && (endedAt ?? since) >= since
        if (late && state !== 'refused') background(id, sweepOne(id))
      }
    },
    /** Takes up what an earlier run of the daemon left. */
    recover(entry: Entry): void {
      if (isEnded(entry)) return
      const { id, phase, verdict } = entry
      let work: Promise<unknown>
      if (verdict === 'runs') work = arrived(id)
      else if (phase === 'preparing' || phase === 'receiving') work = giveUp(id, RESTARTED)
      else {
        const outcome = phase === 'starting' ? findOut(id) : discard(id)
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
      await (side === 'target' ? finish(entry.id) : yieldTo(entry.id))
    },
  }
}
