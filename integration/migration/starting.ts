import { isShoalError, ShoalError } from '../../base/index.ts'
import type { Confirming } from './confirming.ts'
import { type Job, never, stopping, type Target } from './job.ts'
import type { Outcome, Shipped } from './messages.ts'
import { untilDone } from './persist.ts'
import type { Removal } from './removal.ts'

/** From states that arrive to a copy that runs well, or a verdict that it never will. */
export function createStarting(target: Target, removal: Removal, confirming: Confirming) {
  const { journal, clock, timings, runtime, carrier, jobs, log, background } = target

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
  function unpack(job: Job, { id, writable }: Shipped, signal: AbortSignal): Promise<void> {
    const work = job.unpacking.then(async () => {
      if (job.applied === writable) return
      job.applied = undefined
      await carrier.unpack(id, await job.preparing, signal)
      job.applied = writable
    })
    job.unpacking = work.catch(() => {})
    return work
  }

  async function start(job: Job, shipped: Shipped): Promise<Outcome> {
    const { id } = shipped
    const signal = AbortSignal.any([job.abort.signal, target.signal])
    const from = clock.now()
    let restoredAt: number
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
      const assembledAt = clock.now()
      await unpack(job, shipped, signal)
      const unpackedAt = clock.now()
      signal.throwIfAborted()
      await (await job.preparing).start(carrier.images(id), target.signal)
      restoredAt = clock.now()
      const ms = {
        assemble: assembledAt - from,
        unpack: unpackedAt - assembledAt,
        restore: restoredAt - unpackedAt,
      }
      log.debug({ id, ms }, 'restored')
    } catch (error) {
      return failStart(id, (error as Error).message)
    }
    return prove(id, restoredAt)
  }

  async function failStart(id: string, reason: string): Promise<Outcome> {
    // The daemon stops: its successor finds out what is there.
    if (target.signal.aborted) throw stopping()
    log.warn({ id, reason }, 'a migrated container did not start')
    await untilDone(target, `note that migration ${id} failed`, () =>
      journal.write(id, { phase: 'discarding', reason }),
    )
    return removal.discard(id)
  }

  /** The copy runs: whether it does so well decides. */
  async function prove(id: string, restoredAt: number): Promise<Outcome> {
    const entry = journal.get(id)
    if (!entry?.prepared) return never(entry)
    try {
      await target.health({
        container: entry.prepared,
        runtime: await runtime(entry.container.runtime),
        check: entry.health,
        withinMs: timings.healthMs,
        signal: target.signal,
      })
    } catch (error) {
      return failStart(id, `it was restored, but is not healthy: ${(error as Error).message}`)
    }
    await untilDone(target, `note that migration ${id} arrived`, () =>
      journal.write(id, { verdict: 'runs', phase: 'confirming', restoredAt }),
    )
    background(id, confirming.arrived(id))
    return runs(id)
  }

  function runs(id: string): Outcome {
    const sinceMs = Math.max(0, clock.now() - (journal.get(id)?.restoredAt ?? clock.now()))
    return { verdict: 'runs', sinceMs, fetched: jobs.get(id)?.fetched ?? 0 }
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

  async function findOut(id: string, reason: string): Promise<Outcome> {
    const entry = journal.get(id)
    const running = await untilDone(target, `find out what became of migration ${id}`, async (signal) => {
      await carrier.quiet(id, signal)
      if (entry?.prepared === undefined) return false
      const driver = await runtime(entry.container.runtime)
      const found = await driver.inspect(entry.prepared, signal).catch((error: unknown) => {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      })
      return found?.state === 'running' && found.pid !== undefined
    })
    // Its daemon died before it wrote down since when.
    return running ? prove(id, clock.now()) : failStart(id, reason)
  }

  return { assemble, unpack, start, runs, findOut }
}
