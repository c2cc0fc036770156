import { type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager } from '../../manager/index.ts'
import { type AppRecord, isUp, openApps } from './site/apps.ts'
import { createCopying, type ImageSource } from './site/copying.ts'
import { createEnds } from './site/ends.ts'
import { createFinishing } from './site/finishing.ts'
import { createLifecycle } from './site/lifecycle.ts'
import { createFollowing } from './site/moving.ts'
import { createOwn } from './site/own.ts'
import { createPlacing } from './site/placing.ts'
import { createReports, type Moving } from './site/reports.ts'
import { createSurvey } from './site/survey.ts'
import { createUp, type Up } from './site/up.ts'
import { createView } from './site/view.ts'
import type { Talk } from './talk.ts'
import type { App, AppMoved, Offload } from './types.ts'

const POLL_MS = 5000
/** Where everything runs, nodes are asked less often: they tell of changes by themselves. */
const QUIET_POLLS = 6

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
  const stop = new AbortController()
  const closing = stop.signal
  const listeners = new Set<(app: App) => void>()
  const moveListeners = new Set<(moved: AppMoved) => void>()

  const apps = await openApps(store)
  const copying = await createCopying({ images, storing: manager.storing, store, log, now })
  const view = createView({ self: talk.self, images, copying })
  const { imagesOf, order, shown } = view
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
  const reports = createReports({
    talk,
    apps,
    members,
    order,
    onApplied: (record) => ends.applied(record),
    onMoving: tellMoving,
    now,
  })
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
  const ends = createEnds({ apps, kick: lifecycle.kick, log, now })
  const finishing = createFinishing({ apps, copying, lifecycle, ends, up: () => up, view, closing, log })
  const own = createOwn({
    apps,
    copying,
    survey,
    placing,
    following,
    finishing,
    up: () => up,
    view,
    kick: lifecycle.kick,
    closing,
    now,
  })
  const up: Up = createUp({ talk, members, apps, next: options.next, own, shown, kick: lifecycle.kick, log })

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
    members.onChange(() => {
      lifecycle.checkNodes()
      survey.meet()
    }),
  ]

  /** What a crash has left is taken up. */
  for (const record of apps.all()) {
    if (record.wanted === 'gone') void finishing.finish(record, closing).catch(() => {})
    else {
      for (const name of imagesOf(record)) copying.want(name)
      if (record.wanted === 'running' && record.endsAt !== undefined) ends.watch(record)
      lifecycle.kick(record.id)
    }
  }
  survey.meet()

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
      stop.abort(new ShoalError('ABORTED', 'the node is being stopped'))
      clearInterval(timer)
      for (const off of stops) off()
      ends.close()
      await lifecycle.close()
      await copying.close()
      await finishing.idle()
    },
  }
}
