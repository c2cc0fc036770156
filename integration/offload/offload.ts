import { randomUUID } from 'node:crypto'
import { type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager } from '../../manager/index.ts'
import { checkApp } from './checks.ts'
import type { PodOrder } from './executor.ts'
import { type AppRecord, appOf, isUp, newRecord, openApps, type PodRecord, unplace } from './site/apps.ts'
import { createCopying, type ImageSource } from './site/copying.ts'
import { createLifecycle } from './site/lifecycle.ts'
import { createFollowing } from './site/moving.ts'
import { createPlacing } from './site/placing.ts'
import { createReports, type Moving } from './site/reports.ts'
import { createSurvey } from './site/survey.ts'
import { createUp } from './site/up.ts'
import type { Talk } from './talk.ts'
import type { App, AppMoved, Offload } from './types.ts'

const POLL_MS = 5000
/** Where everything runs, nodes are asked less often: they tell of changes by themselves. */
const QUIET_POLLS = 6
const MAX_APPS = 10_000
const MAX_OF_OWNER = 1000
/** An ID of the device API's, as a container's name can hold it. */
const ID = /^[0-9a-f]{32}$/

/** The longest that a timer of Node's can wait. */
const LONGEST_MS = 2 ** 31 - 1

type Local = Omit<Offload, 'onChange' | 'onMoved' | 'close'>

export interface OffloadOptions {
  manager: Manager
  store: BlockStore
  talk: Talk
  images: ImageSource
  /** Name or peer ID of the next manager up: a node of the cluster, of another site as a rule. */
  next?: string | undefined
  log: Log
  now?: () => number
  timing?: { pollMs?: number; lossMs?: number }
}

/** The local MANO manager of this node. See types.ts for what it does. */
export async function createOffload(options: OffloadOptions): Promise<Offload> {
  const { manager, store, talk, images, log, now = Date.now } = options
  const { members } = manager
  const closing = new AbortController()
  const listeners = new Set<(app: App) => void>()
  const moveListeners = new Set<(moved: AppMoved) => void>()
  const ends = new Map<string, NodeJS.Timeout>()

  const apps = await openApps(store)
  const copying = await createCopying({ images, storing: manager.storing, store, log, now })
  const survey = createSurvey({
    talk,
    members,
    apps,
    images: () => {
      const names = new Set([...apps.all()].flatMap(imagesOf))
      return [...names].flatMap((name) => {
        const blobs = copying.blobs(name)
        return blobs === undefined ? [] : [{ name, blobs }]
      })
    },
    blobs: copying.blobs,
    log,
    now,
  })
  const placing = createPlacing({
    survey,
    apps,
    members,
    home: talk.self,
    storedName: images.storedName,
    now,
  })
  const reports = createReports({ talk, apps, members, order, onApplied: applied, onMoving: tellMoving, now })
  const lifecycle = createLifecycle({
    talk,
    apps,
    members,
    survey,
    placing,
    reports,
    order,
    log,
    now,
    lossMs: options.timing?.lossMs,
  })
  const following = createFollowing({ talk, apps, survey, placing, onMoving: tellMoving, log })
  const own = local()
  const up = createUp({ talk, members, apps, next: options.next, own, shown, kick: lifecycle.kick, log })

  function imagesOf(record: AppRecord): string[] {
    return [...new Set(record.spec.pods.map(({ image }) => images.storedName(image)))]
  }

  function order(record: AppRecord, pod: PodRecord): PodOrder {
    const spec = record.spec.pods.find(({ name }) => name === pod.name)!
    return {
      app: record.id,
      pod: pod.name,
      owner: record.owner,
      manager: talk.self,
      generation: pod.generation,
      spec: { ...spec, image: images.storedName(spec.image) },
    }
  }

  function shown(record: AppRecord): App {
    const names = imagesOf(record)
    const notes = names.map(copying.trouble).filter((trouble) => trouble !== undefined)
    return appOf(record, names.some(copying.isUnderWay), notes)
  }

  function tell(record: AppRecord): void {
    const app = shown(record)
    for (const listener of listeners) listener(app)
    up.tellDown(record, app)
  }

  function tellMoving({ record, pod, from, to, status }: Moving): void {
    const app = shown(record)
    const referenceURI = isUp(pod) ? pod.referenceURI : undefined
    for (const listener of moveListeners) listener({ app, pod: pod.name, from, to, status, referenceURI })
  }

  function applied(record: AppRecord): void {
    if (!record.pods.every(isUp) || record.endsAt !== undefined) return
    const seconds = record.spec.executionTimeS
    if (seconds === undefined) return
    record.endsAt = now() + seconds * 1000
    apps.save(record).catch((error) => log.warn({ err: error }, 'an end is not written down'))
    watchEnd(record)
  }

  function watchEnd(record: AppRecord): void {
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
    if (record.endsAt > now()) return watchEnd(record)
    rest(record, [`its execution time of ${record.spec.executionTimeS} s is over`])
    await apps.save(record)
    lifecycle.kick(id)
  }

  function rest(record: AppRecord, reasons: string[]): void {
    record.wanted = 'registered'
    record.reasons = reasons
    delete record.endsAt
    delete record.trouble
    delete record.offloadedAt
    for (const pod of record.pods) unplace(pod, undefined)
  }

  function owned(owner: string, id: string): AppRecord | undefined {
    const record = apps.get(id)
    return record?.owner === owner && record.wanted !== 'gone' ? record : undefined
  }

  /** What of the interface this node does for its own applications. */
  function local(): Local {
    return {
      async register(owner, given, { id = randomUUID().replaceAll('-', '') } = {}) {
        const spec = checkApp(given)
        if (!ID.test(id)) throw new ShoalError('USAGE', 'an ID is made of 32 hexadecimal digits')
        for (const { image } of spec.pods) checkImage(image)
        const known = apps.get(id)
        if (known !== undefined) {
          if (known.owner !== owner) throw new ShoalError('USAGE', 'the ID is taken')
          if (known.wanted === 'gone')
            throw new ShoalError('BUSY', 'an application of this ID is being removed')
          return shown(known)
        }
        const mine = [...apps.all()].filter((app) => app.owner === owner).length
        if (apps.size >= MAX_APPS || mine >= MAX_OF_OWNER) {
          throw new ShoalError('BUSY', 'too many applications are registered')
        }
        const record = newRecord({ id, owner, spec, createdAt: now() })
        await apps.add(record)
        for (const name of imagesOf(record)) copying.want(name)
        // By the time that it is offloaded the nodes have told what they have.
        void survey.refresh()
        return shown(record)
      },

      async offload(owner, id, where) {
        const record = owned(owner, id)
        if (record === undefined) throw new ShoalError('NOT_FOUND', 'there is no such application')
        if (record.wanted === 'running') return shown(record)
        if (survey.isStale()) await survey.refresh({ now: true })
        else void survey.refresh()
        if (owned(owner, id)?.wanted !== 'registered') return shown(record)
        record.wanted = 'running'
        record.offloadedAt = now()
        if (where.entry === undefined) delete record.entry
        else record.entry = where.entry
        if (where.within === undefined) delete record.within
        else record.within = where.within
        const { fits, changed } = await assign(record)
        if (record.wanted !== 'running') throw new ShoalError('NOT_FOUND', 'it was deleted meanwhile')
        if (fits) {
          try {
            await apps.save(record)
          } catch (error) {
            rest(record, [])
            for (const other of changed) lifecycle.kick(other.id)
            throw error
          }
          for (const other of changed) {
            await apps.save(other)
            lifecycle.kick(other.id)
          }
          lifecycle.kick(id)
          return shown(record)
        }
        const here = record.reasons
        const there = await up.offload(record, where)
        if (record.wanted !== 'running') {
          // Who deleted it may have been there before it was given.
          if (there.given) await up.remove(record, closing.signal)
          throw new ShoalError('NOT_FOUND', 'it was deleted meanwhile')
        }
        if (!there.given) {
          rest(record, [...here, ...there.reasons])
          await apps.save(record)
          throw new ShoalError('UNFIT', 'the application fits nowhere', {
            details: { reasons: record.reasons },
          })
        }
        record.reasons = [...here, ...there.reasons]
        await apps.save(record)
        return shown(record)
      },

      async get(owner, id) {
        const record = apps.get(id)
        return record?.owner === owner ? shown(record) : undefined
      },

      async list(owner) {
        return [...apps.all()].filter((record) => record.owner === owner).map(shown)
      },

      async delete(owner, id, signal) {
        const record = apps.get(id)
        if (record === undefined || record.owner !== owner) return false
        const before = record.wanted
        const first = before !== 'gone'
        record.wanted = 'gone'
        try {
          if (first) await apps.save(record)
        } catch (error) {
          record.wanted = before
          throw error
        }
        await finish(record, signal)
        return first
      },

      async available(given, where) {
        const spec = checkApp(given)
        if (survey.isStale()) await survey.refresh({ now: true })
        else void survey.refresh()
        const names = spec.pods.map(({ name }) => name)
        const first = placing.decide(spec, names, where)
        if (!first.fits) await survey.refresh({ now: true })
        const { fits, places, reasons } = first.fits ? first : placing.decide(spec, names, where)
        if (fits) return { fits, reasons, nodes: [...new Set(places.map(({ peer }) => peer))] }
        const above = await up.available(spec, where)
        return { fits: above.fits, reasons: [...reasons, ...above.reasons], nodes: above.nodes }
      },

      async moved(owner, entry, follows = () => true) {
        const mine = [...apps.all()].filter((record) => record.owner === owner && record.wanted === 'running')
        for (const record of mine) {
          if (!follows(shown(record))) continue
          if (record.entry !== entry) {
            record.entry = entry
            await apps.save(record)
          }
          await following.follow(record, entry)
        }
      },
    }
  }

  /** Who is told that nothing fits has waited until the nodes were asked once more; who gets a place does not wait. */
  async function assign(record: AppRecord): Promise<{ fits: boolean; changed: AppRecord[] }> {
    const first = placing.assign(record)
    if (first.fits) return first
    await survey.refresh({ now: true })
    return record.wanted === 'running' ? placing.assign(record) : first
  }

  function checkImage(image: string): void {
    try {
      images.storedName(image)
    } catch (cause) {
      throw new ShoalError('USAGE', `not an image: ${(cause as Error).message}`, { cause })
    }
  }

  const finishing = new Map<string, Promise<void>>()

  /** Removes what there is of it, then its record; who asks in the middle waits for the same. */
  async function finish(record: AppRecord, signal: AbortSignal): Promise<void> {
    let run = finishing.get(record.id)
    if (run === undefined) {
      run = (async () => {
        await up.remove(record, closing.signal)
        await lifecycle.remove(record, closing.signal)
        clearTimeout(ends.get(record.id))
        ends.delete(record.id)
        await apps.delete(record.id)
        for (const name of imagesOf(record)) {
          if (![...apps.all()].some((other) => imagesOf(other).includes(name))) {
            copying
              .release(name)
              .catch((error) => log.warn({ err: error, image: name }, 'an image stays stored'))
          }
        }
      })().finally(() => finishing.delete(record.id))
      finishing.set(record.id, run)
      run.catch(() => {})
    }
    await Promise.race([
      run,
      new Promise<never>((_, reject) => {
        const give = () => reject(new ShoalError('ABORTED', 'it is being removed still'))
        if (signal.aborted) give()
        signal.addEventListener('abort', give, { once: true })
      }),
    ])
  }

  let polls = 0
  async function poll(): Promise<void> {
    lifecycle.checkNodes()
    const running = [...apps.all()].filter(({ wanted }) => wanted === 'running')
    if (running.length === 0) return
    const quiet = running.every((record) => record.up === undefined && record.pods.every(isUp))
    if (quiet && ++polls % QUIET_POLLS !== 0) return
    await Promise.all([lifecycle.poll(), up.poll()])
  }

  const timer = setInterval(
    () => void poll().catch((error) => log.warn({ err: error }, 'looking after applications failed')),
    options.timing?.pollMs ?? POLL_MS,
  )
  timer.unref()
  const stops = [
    apps.onChange(tell),
    copying.onChange((name) => {
      for (const record of apps.all()) {
        if (record.wanted === 'registered' && imagesOf(record).includes(name)) tell(record)
      }
    }),
    members.onChange(() => lifecycle.checkNodes()),
  ]

  /** What a crash has left is taken up. */
  for (const record of apps.all()) {
    if (record.wanted === 'gone') void finish(record, closing.signal).catch(() => {})
    else {
      for (const name of imagesOf(record)) copying.want(name)
      if (record.wanted === 'running' && record.endsAt !== undefined) watchEnd(record)
      lifecycle.kick(record.id)
    }
  }
  if (apps.size > 0) void survey.refresh()

  return {
    ...own,
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    onMoved(listener) {
      moveListeners.add(listener)
      return () => moveListeners.delete(listener)
    },
    async close() {
      closing.abort(new ShoalError('ABORTED', 'the node is being stopped'))
      clearInterval(timer)
      for (const stop of stops) stop()
      for (const end of ends.values()) clearTimeout(end)
      await lifecycle.close()
      await copying.close()
      await Promise.allSettled(finishing.values())
    },
  }
}
