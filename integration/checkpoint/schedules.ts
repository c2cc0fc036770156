import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { PeerId } from '../../manager/index.ts'
import type { Runtimes } from '../runtime/index.ts'
import type { CreateRequest } from './create.ts'
import type { CheckpointDocument } from './document.ts'
import type { Expiry } from './expiry.ts'
import { nameOf } from './names.ts'
import type { Published } from './published.ts'
import type { Schedule, ScheduleRequest } from './types.ts'

const MIN_EVERY_MS = 1000
export const DEFAULT_KEEP = 3

/** Keeps checkpoints of running containers fresh: each version costs what changed since the one before. Goes on after a restart. */
export interface Schedules {
  /** In place of the one that the container had. @throws NOT_FOUND | USAGE */
  put(request: ScheduleRequest, signal: AbortSignal): Promise<Schedule>
  list(): Schedule[]
  /** By the checkpoint's name. False if there is none. */
  remove(name: string): Promise<boolean>
  resume(): Promise<void>
  close(): Promise<void>
}

/** As it is written down. */
export type Planned = Omit<Schedule, 'lastAt' | 'lastVersion' | 'error'>

export function createSchedules(deps: {
  records: Records<Planned>
  runtimes: Pick<Runtimes, 'get'>
  create: (request: CreateRequest) => Promise<CheckpointDocument>
  published: Published
  expiry: Pick<Expiry, 'remove'>
  self: PeerId
  log: Log
  now: () => number
}): Schedules {
  const { records, create, published, expiry, self, log, now } = deps
  const plans = new Map<string, { schedule: Schedule; stop: AbortController; done: Promise<void> }>()

  /** Versions of this node beyond those that are to be kept. */
  async function prune({ name, keep }: Schedule, signal: AbortSignal): Promise<void> {
    const own = (await published.list(name)).filter(({ node }) => node === self)
    for (const document of own.slice(0, Math.max(0, own.length - keep))) await expiry.remove(document, signal)
  }

  async function once(schedule: Schedule, signal: AbortSignal): Promise<'gone' | undefined> {
    const { id, runtime, name, copies, encryptFor } = schedule
    try {
      const made = await create({
        container: id,
        runtime,
        name,
        leaveRunning: true,
        signal,
        ...(copies === undefined ? {} : { copies }),
        ...(encryptFor === undefined ? {} : { encryptFor }),
      })
      schedule.lastAt = made.createdAt
      schedule.lastVersion = made.version
      delete schedule.error
      await prune(schedule, signal)
    } catch (error) {
      if (signal.aborted) return undefined
      schedule.error = error instanceof Error ? error.message : String(error)
      if (isShoalError(error, 'NOT_FOUND') && (await isGone(schedule, signal))) return 'gone'
      log.warn(
        { name, container: schedule.container, error: schedule.error },
        'a planned checkpoint was not made',
      )
    }
    return undefined
  }

  async function isGone({ runtime, id }: Schedule, signal: AbortSignal): Promise<boolean> {
    try {
      await (await deps.runtimes.get(runtime)).inspect(id, signal)
      return false
    } catch (error) {
      return isShoalError(error, 'NOT_FOUND')
    }
  }

  async function run(schedule: Schedule, signal: AbortSignal): Promise<void> {
    let due = now()
    while (!signal.aborted) {
      // Should the clock be set back, the next one is not put off until it is there again.
      await pause(Math.min(schedule.everyMs, due - now()), signal)
      if (signal.aborted) return
      if ((await once(schedule, signal)) === 'gone') {
        log.info(
          { name: schedule.name, container: schedule.container },
          'the container is gone, and with it the plan for its checkpoints',
        )
        await records.delete(schedule.name)
        plans.delete(schedule.name)
        return
      }
      // One that takes longer than its time does not pile up.
      due = Math.max(due + schedule.everyMs, now())
    }
  }

  function start(planned: Planned): Schedule {
    const schedule: Schedule = { ...planned }
    const stop = new AbortController()
    const done = run(schedule, stop.signal).catch((error) => {
      if (!stop.signal.aborted)
        log.error({ name: planned.name, error: String(error) }, 'a plan for checkpoints broke')
    })
    plans.set(planned.name, { schedule, stop, done })
    return schedule
  }

  async function end(name: string): Promise<boolean> {
    const plan = plans.get(name)
    if (!plan) return false
    plans.delete(name)
    plan.stop.abort(new ShoalError('ABORTED', 'the plan was taken back'))
    await plan.done
    return true
  }

  return {
    async put(request, signal) {
      const { everyMs, keep = DEFAULT_KEEP } = request
      if (!(everyMs >= MIN_EVERY_MS))
        throw new ShoalError('USAGE', 'a checkpoint can be made once a second at most')
      if (!Number.isInteger(keep) || keep < 1)
        throw new ShoalError('USAGE', 'at least one version has to be kept')
      const found = await (await deps.runtimes.get(request.runtime)).inspect(request.container, signal)
      const planned: Planned = {
        name: request.name ?? nameOf(found.name),
        container: found.name,
        id: found.id,
        runtime: request.runtime,
        everyMs,
        keep,
        ...(request.copies === undefined ? {} : { copies: request.copies }),
        ...(request.encryptFor === undefined ? {} : { encryptFor: request.encryptFor }),
      }
      await end(planned.name)
      await records.put(planned.name, planned, { sync: true })
      return start(planned)
    },
    list: () => [...plans.values()].map(({ schedule }) => ({ ...schedule })),
    async remove(name) {
      await records.delete(name)
      return end(name)
    },
    async resume() {
      for await (const [name, planned] of records.entries()) if (!plans.has(name)) start(planned)
    },
    async close() {
      await Promise.all([...plans.keys()].map(end))
    },
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, Math.max(0, ms))
    function done(): void {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    signal.addEventListener('abort', done)
  })
}
