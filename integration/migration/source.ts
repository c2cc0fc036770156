import { randomUUID } from 'node:crypto'
import { isShoalError, ShoalError } from '../../base/index.ts'
import type { Member, PeerId } from '../../manager/index.ts'
import type { Container } from '../runtime/types.ts'
import { createCalls } from './calls.ts'
import { type Entry, isEnded } from './entry.ts'
import { METHODS, readId, type Standing } from './messages.ts'
import type { Load, Parts } from './parts.ts'
import { untilDone } from './persist.ts'
import { anotherRound } from './rounds.ts'
import { createSettling } from './settling.ts'
import type { MigrationRequest, Round } from './types.ts'

const ROUNDS = 5

const CALLED_OFF = 'it was called off before the container was frozen'

/** Said no before anything was done; the container runs untouched. */
class Refused extends Error {
  readonly reasons: string[]
  constructor(reasons: string[]) {
    super(reasons.join('; '))
    this.reasons = reasons
  }
}

/**
 * The end of a migration that the container leaves. It freezes the container, hands over, and from then on goes by the target's
 * word alone: removes the frozen container when the copy runs, or resumes it when the copy never will.
 */
export function createSource(parts: Parts) {
  const { journal, rpc, clock, carrier, judge, log } = parts
  const calls = createCalls(parts)
  const settling = createSettling(parts, calls)
  const { entryOf, driverOf, step, settle, resume, tidy } = settling

  /** Ends what is done before the freeze, when a person calls a migration off. */
  const offs = new Map<string, AbortController>()

  async function run(id: string): Promise<void> {
    const off = new AbortController()
    offs.set(id, off)
    let frozen = false
    try {
      const shipped = await copy(id, AbortSignal.any([parts.signal, off.signal]))
      frozen = true
      await freeze(id, shipped)
    } catch (error) {
      if (parts.signal.aborted && !frozen) return
      return back(id, error as Error)
    } finally {
      offs.delete(id)
    }
    await settle(id)
  }

  /** All that can be done while the container runs. */
  async function copy(id: string, signal: AbortSignal): Promise<Load | undefined> {
    const { container, request, to } = entryOf(id)
    const driver = await parts.runtime(container.runtime)
    const tcpEstablished = request?.tcpEstablished ?? false
    const found = await driver.inspect(container.id, signal)
    const here = await judge.leaving(found, driver, { signal })
    if (here.reasons.length > 0) throw new Refused(here.reasons)
    const recreation = await driver.describe(container.id, signal)
    const { needs, size } = here
    const offer = { id, container, recreation, needs, size, health: request?.health, tcpEstablished }
    const reasons = await calls.offer(to, offer, signal)
    if (reasons.length > 0) throw new Refused(reasons)
    await step(id, { phase: 'copying' })
    const stop = new AbortController()
    const either = AbortSignal.any([signal, stop.signal])
    const prepared = calls.prepared(to, id, either)
    // It may fail while a round goes on, which is then in vain.
    prepared.catch((error: Error) => stop.abort(error))
    let last: Load | undefined
    try {
      const rounds: Round[] = []
      const most = request?.rounds ?? ROUNDS
      while (anotherRound(rounds, most)) {
        const from = clock.now()
        last = await capture(id, last, either)
        const shipped = { id, recipe: last.recipe, writable: last.writable }
        const sent = await calls.round(to, shipped, either)
        const seconds = (clock.now() - from) / 1000
        rounds.push({ frozen: false, seconds, changed: last.changed, sent })
        await journal.note(id, { rounds: [...rounds] })
      }
      await prepared
    } catch (error) {
      if (stop.signal.aborted) throw stop.signal.reason
      stop.abort()
      throw error
    }
    // Whoever cannot be reached now would leave a frozen container behind. It also warms the way for the one message that counts.
    await calls.prepared(to, id, signal)
    return last
  }

  async function capture(id: string, before: Load | undefined, signal: AbortSignal): Promise<Load> {
    const { container } = entryOf(id)
    const runtime = await parts.runtime(container.runtime)
    const base = before?.recipe
    return carrier.capture({ id, container: container.id, runtime, base, signal })
  }

  async function freeze(id: string, before: Load | undefined): Promise<void> {
    const entry = await step(id, ({ calledOff }) =>
      calledOff ? undefined : { phase: 'freezing', frozenAt: clock.now() },
    )
    const frozenAt = clock.now()
    await (await driverOf(entry)).pause(entry.container.id, parts.signal)
    const pausedAt = clock.now()
    const load = await capture(id, before, parts.signal)
    const ms = { pause: pausedAt - frozenAt, capture: clock.now() - pausedAt }
    log.debug({ id, ms }, 'frozen and captured')
    const shipped = { id, recipe: load.recipe, writable: load.writable }
    // It takes this in while it is written down here that it may start, which can take long after a dump.
    calls.ahead(entry.to, shipped, parts.signal)
    const round: Round = { frozen: true, seconds: 0, changed: load.changed, sent: load.added }
    await step(id, {
      phase: 'handed-over',
      recipe: load.recipe,
      frozenAt,
      rounds: [...entry.rounds, round],
    })
    settling.handedOver(shipped)
  }

  /** Nothing was handed over, so the target never starts: the container may go on at once. */
  async function back(id: string, error: Error): Promise<void> {
    const entry = entryOf(id)
    const frozen = entry.phase === 'freezing' || entry.phase === 'handed-over'
    if (parts.signal.aborted && !frozen) return
    if (frozen) return resume(id, error.message)
    const { reason = error.message } = await untilDone(parts, `note the end of migration ${id}`, () =>
      step(id, ({ calledOff }) => ({
        state: calledOff ? 'called-off' : error instanceof Refused ? 'refused' : 'failed',
        phase: 'ended',
        endedAt: clock.now(),
        reason: calledOff ? CALLED_OFF : error.message,
      })),
    )
    await tidy(id)
    await calls.callOff(entry.to, id, reason, parts.signal)
  }

  /** What an earlier run of the daemon left: frozen only by us, and resumed unless it was handed over. */
  async function takeUp(entry: Entry): Promise<void> {
    const { id, phase } = entry
    switch (phase) {
      case 'checking':
      case 'copying': {
        // A dump that the daemon's death interrupted may have left it frozen.
        await untilDone(parts, `look after the container of migration ${id}`, async (signal) => {
          await carrier.quiet(id, signal)
          const driver = await driverOf(entry)
          const found = await driver.inspect(entry.container.id, signal).catch((error: unknown) => {
            if (isShoalError(error, 'NOT_FOUND')) return undefined
            throw error
          })
          if (found?.state === 'paused') await driver.resume(found.id, signal)
        })
        return back(id, new Error('the daemon at the source was restarted'))
      }
      case 'freezing':
        await untilDone(parts, `wait for dumps of migration ${id}`, (signal) => carrier.quiet(id, signal))
        return resume(id, 'the daemon at the source was restarted')
      case 'handed-over':
        return settle(id)
      case 'committing':
        return settling.finishCommit(entry)
      case 'resuming':
        return settling.finishResume(entry, parts)
      default:
    }
  }

  rpc.handle(METHODS.status, async (peer: PeerId, body) => {
    const id = readId(body)
    const entry = journal.get(id)
    if (entry && (entry.role !== 'source' || entry.to !== peer)) {
      throw new ShoalError('DENIED', `migration ${id} is not between these nodes`)
    }
    return { standing: standingOf(entry) }
  })

  function standingOf(entry: Entry | undefined): Standing {
    if (!entry) return 'unknown'
    if (entry.state === 'done') return 'gone'
    if (isEnded(entry) || entry.phase === 'resuming') return 'kept'
    return 'going'
  }

  const watched = (id: string, work: Promise<void>): void => {
    parts.track(work)
    work.catch((error) => {
      if (parts.signal.aborted)
        log.debug({ id, error: String(error) }, 'a migration waits for the next start')
      else log.error({ id, error: String(error) }, 'a migration broke')
    })
  }

  return {
    /** @throws NOT_FOUND | BUSY; else the journal has it, and it is under way */
    async start(request: MigrationRequest, container: Container, to: Member): Promise<Entry> {
      const moving = journal
        .list()
        .some((each) => each.role === 'source' && !isEnded(each) && each.container.id === container.id)
      if (moving) throw new ShoalError('BUSY', `${container.name} is moving already`)
      const id = randomUUID()
      const { name, runtime } = container
      const entry: Entry = {
        id,
        role: 'source',
        container: { id: container.id, name, runtime },
        from: parts.self,
        to: to.id,
        state: 'running',
        phase: 'checking',
        rounds: [],
        downtimeMs: undefined,
        restoredAt: undefined,
        startedAt: clock.now(),
        endedAt: undefined,
        reason: undefined,
        labels: container.labels,
        request,
      }
      await journal.add(entry)
      watched(id, run(id))
      return entry
    },
    /** Takes up what an earlier run of the daemon left. */
    recover(entry: Entry): void {
      if (!isEnded(entry)) watched(entry.id, takeUp(entry))
    },
    async cancel({ id }: Entry): Promise<void> {
      // By turns with the step that freezes: the one that comes first is in the journal, and the other is not done.
      const noted = await journal.write(id, ({ phase, calledOff }) =>
        phase === 'checking' || phase === 'copying' ? { calledOff: calledOff ?? true } : undefined,
      )
      if (!noted) {
        const { phase, state } = entryOf(id)
        const late =
          phase === 'ended' ? `it has ended: ${state}` : `the container is frozen already (${phase})`
        throw new ShoalError('BUSY', `it is too late to call it off: ${late}`)
      }
      offs.get(id)?.abort(new ShoalError('ABORTED', CALLED_OFF))
    },
    async decide(entry: Entry, side: 'source' | 'target'): Promise<void> {
      if (entry.phase !== 'handed-over') {
        throw new ShoalError('BUSY', `there is nothing to decide: it is ${entry.phase}`)
      }
      await step(entry.id, { forced: side })
      settling.wake(entry.id)
    },
  }
}
