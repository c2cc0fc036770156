import { randomBytes } from 'node:crypto'
import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { App, Offload } from '../offload/types.ts'
import { checkCallback } from './callback-target.ts'
import type { Catalogue } from './catalogue.ts'
import { parseContext } from './context-body.ts'
import { contextView, refuseOtherChanges, type StoredContext, wantedPlaces } from './context-record.ts'
import { instancesOf } from './instances.ts'
import type { Locations } from './location.ts'
import type { Outbox } from './outbox.ts'
import { createSettling } from './settling.ts'
import { createTurns } from './turns.ts'
import type { Call } from './types.ts'
import type { Whereabouts } from './whereabouts.ts'

export interface Contexts {
  /** `signal`: the daemon stops. @throws USAGE | NOT_FOUND | DENIED | UNFIT | ABORTED */
  create(call: Call, signal: AbortSignal): Promise<Record<string, unknown>>
  /** @throws USAGE | NOT_FOUND */
  update(call: Call, id: string): Promise<void>
  /** Resolves when nothing is left of it. @throws NOT_FOUND */
  remove(ue: string, id: string): Promise<void>
  /** The application was deleted by its device: its context goes too. */
  appDeleted(appId: string): Promise<void>
  ofApp(appId: string): StoredContext | undefined
  /** May the application follow its device? */
  follows(app: App): boolean
  close(): Promise<void>
}

const MAX_CONTEXTS = 64
/** How long a request without a callback is answered later for, so that it can tell the address. */
const WAIT_MS = 55e3
const RETRY_MS = 15e3
const GONE_MS = 500

export async function createContexts({
  records,
  offload,
  outbox,
  catalogue,
  locations,
  whereabouts,
  log,
  now = Date.now,
  waitMs = WAIT_MS,
  retryMs = RETRY_MS,
}: {
  records: Records<StoredContext>
  offload: Offload
  outbox: Outbox
  catalogue: Catalogue
  locations: Locations
  whereabouts: Whereabouts
  log: Log
  now?: () => number
  waitMs?: number
  retryMs?: number
}): Promise<Contexts> {
  const contexts = new Map<string, StoredContext>()
  const byApp = new Map<string, StoredContext>()
  const perUe = new Map<string, number>()
  const settling = createSettling()
  const inTurn = createTurns()
  const stop = new AbortController()
  let retryTimer: NodeJS.Timeout | undefined

  const laneOf = (id: string): string => `context/${id}`
  const save = (context: StoredContext): Promise<void> => records.put(context.id, context)
  const ran = ({ told }: StoredContext): boolean => Object.keys(told).length > 0

  function keep(context: StoredContext): void {
    contexts.set(context.id, context)
    byApp.set(context.appId, context)
    perUe.set(context.ue, (perUe.get(context.ue) ?? 0) + 1)
  }

  async function forget(context: StoredContext): Promise<void> {
    if (!contexts.delete(context.id)) return
    byApp.delete(context.appId)
    const left = (perUe.get(context.ue) ?? 1) - 1
    if (left > 0) perUe.set(context.ue, left)
    else perUe.delete(context.ue)
    await records.delete(context.id)
    settling.stir(context.id)
  }

  async function tell(context: StoredContext, body: Record<string, unknown>): Promise<void> {
    const url = context.request.callbackReference
    if (url === undefined) return
    const { ue, id, allowLoopback } = context
    await outbox.add({ lane: laneOf(id), ue, url, allowLoopback, body })
  }

  function whereOf(context: StoredContext): { entry?: string; within?: string[] } {
    const entry = whereabouts.of(context.ue)?.entry
    const within = locations.within(wantedPlaces(context))
    return { ...(entry === undefined ? {} : { entry }), ...(within === undefined ? {} : { within }) }
  }

  /** @throws UNFIT */
  async function place(context: StoredContext): Promise<void> {
    const where = whereOf(context)
    if (where.within?.length === 0) throw new ShoalError('UNFIT', 'no node is at any of the locations')
    await offload.offload(context.ue, context.appId, where)
  }

  /** Nothing of it is to be left, and the device hears of that only where `say`. */
  async function end(context: StoredContext, say: boolean): Promise<void> {
    context.phase = 'deleting'
    await save(context)
    try {
      await offload.delete(context.ue, context.appId, stop.signal)
    } catch (error) {
      retry(retryMs)
      throw error
    }
    if (say) {
      await tell(context, { notificationType: 'ApplicationContextDeleteNotification', contextId: context.id })
    } else await outbox.forget(laneOf(context.id))
    await forget(context)
  }

  /** What became of the application is told to the device, as far as it does not know it. In the context's turn. */
  async function follow(context: StoredContext, app: App): Promise<void> {
    if (context.phase === 'deleting' || contexts.get(context.id) !== context) return
    if (app.state === 'deleting') return void gone(context)
    if (app.state === 'failed' && !ran(context)) {
      const reason = app.pods.find((pod) => pod.reason !== undefined)?.reason
      log.warn(
        { context: context.id, app: app.id, reason },
        'an application did not come to run: its context goes',
      )
      if (reason !== undefined) context.reason = reason
      return end(context, true)
    }
    const first = !ran(context)
    if (first && app.state !== 'running') return
    const up = instancesOf(app).filter(({ referenceURI }) => referenceURI !== undefined)
    const changed = up.filter(({ pod, referenceURI }) => context.told[pod] !== referenceURI)
    if (changed.length === 0) return
    if (first) {
      await tell(context, {
        notificationType: 'ApplicationContextUpdateNotification',
        contextId: context.id,
        userAppInstanceInfo: up.map(({ appInstanceId, referenceURI, peer }) => ({
          appInstanceId,
          referenceURI,
          ...(peer === undefined ? {} : { appLocation: locations.of(peer) }),
        })),
      })
    } else {
      for (const { appInstanceId, referenceURI } of changed) {
        await tell(context, {
          notificationType: 'AddressChangeNotification',
          contextId: context.id,
          appInstanceId,
          referenceURI,
        })
      }
    }
    for (const { pod, referenceURI } of changed) context.told[pod] = referenceURI!
    await save(context)
    settling.stir(context.id)
  }

  /** Somebody else deletes the application (its time was over): when it is gone, so is its context. */
  function gone(context: StoredContext): void {
    const look = async (): Promise<void> => {
      if (stop.signal.aborted || context.phase === 'deleting' || !contexts.has(context.id)) return
      const app = await offload.get(context.ue, context.appId)
      if (app?.state === 'deleting') setTimeout(soon, GONE_MS)
      else if (app) await follow(context, app)
      else await end(context, true)
    }
    const soon = (): void => attempt(context, look)
    soon()
  }

  function attempt(context: StoredContext, work: () => Promise<void>): void {
    inTurn(context.id, work).catch((error) => {
      if (!stop.signal.aborted)
        log.warn({ context: context.id, err: error }, 'a context could not be followed')
    })
  }

  /** For a context that waits: is there room by now? */
  async function look(context: StoredContext): Promise<void> {
    if (context.phase !== 'waiting') return
    const where = whereOf(context)
    const nowhere: Awaited<ReturnType<Offload['available']>> = { fits: false, reasons: [], nodes: [] }
    const found = where.within?.length === 0 ? nowhere : await offload.available(context.spec, where)
    if (found.fits && context.request.appAutoInstantiation) {
      await place(context)
      context.phase = 'placed'
      return save(context)
    }
    const wanted = wantedPlaces(context)
    const places =
      wanted.length === 0
        ? found.nodes.map((node) => locations.of(node))
        : wanted.filter((one) => locations.within([one])?.some((node) => found.nodes.includes(node)))
    const texts = found.fits ? [...new Set(places.map((one) => JSON.stringify(one)))].sort() : []
    if (JSON.stringify(texts) === JSON.stringify(context.toldPlaces)) return
    context.toldPlaces = texts
    if (context.request.appLocationUpdates && texts.length > 0) {
      await tell(context, {
        notificationType: 'ApplicationLocationAvailabilityNotification',
        contextId: context.id,
        availableLocations: texts.map((text) => ({ appLocation: JSON.parse(text) })),
      })
    }
    await save(context)
  }

  /** Room comes and goes unheard: those that wait look again and again, and soon where an application went. */
  function retry(inMs: number): void {
    clearTimeout(retryTimer)
    const waiting = [...contexts.values()].filter(({ phase }) => phase === 'waiting' || phase === 'deleting')
    if (waiting.length === 0 || stop.signal.aborted) return
    retryTimer = setTimeout(() => {
      for (const context of waiting) attempt(context, () => again(context))
      retry(retryMs)
    }, inMs)
  }

  async function again(context: StoredContext): Promise<void> {
    if (contexts.get(context.id) !== context) return
    // Its application could not be deleted, or a node was away that had a part of it.
    if (context.phase === 'deleting') return end(context, true)
    await look(context).catch((error) => {
      if (!isShoalError(error, 'UNFIT')) throw error
    })
  }

  function find(ue: string, id: string): StoredContext {
    const context = contexts.get(id)
    // Whether somebody else has such a context is nobody's business.
    if (context?.ue !== ue) throw new ShoalError('NOT_FOUND', 'this device has no such context')
    return context
  }

  for await (const [, context] of records.entries()) keep(context)
  const offChange = offload.onChange((app) => {
    const context = byApp.get(app.id)
    if (context) attempt(context, () => follow(context, app))
    if (app.state === 'deleting') retry(1000)
  })
  const offMoved = offload.onMoved(({ app, status }) => {
    const context = byApp.get(app.id)
    if (context && status === 'moved') attempt(context, () => follow(context, app))
  })
  // What the last daemon left: those whose device got no answer are not wanted, the others are looked after.
  for (const context of [...contexts.values()]) {
    attempt(context, async () => {
      if (context.phase === 'creating') return end(context, false)
      if (context.phase === 'deleting') return end(context, true)
      if (context.phase === 'waiting') return
      const app = await offload.get(context.ue, context.appId)
      if (app) await follow(context, app)
      else await end(context, true)
    })
  }
  retry(1000)

  return {
    async create(call, signal) {
      const request = parseContext(call.body)
      checkCallback(request.callbackReference, call)
      if ((perUe.get(call.ue) ?? 0) >= MAX_CONTEXTS) {
        throw new ShoalError('DENIED', `the device has ${MAX_CONTEXTS} contexts: delete one`)
      }
      const own = (await offload.list(call.ue)).filter(({ id }) => !byApp.has(id))
      const spec = await catalogue.resolve(call, own, request.appInfo, signal)
      const context: StoredContext = {
        id: randomBytes(16).toString('hex'),
        ue: call.ue,
        request,
        spec,
        appId: randomBytes(16).toString('hex'),
        allowLoopback: call.local,
        phase: 'creating',
        told: {},
        toldPlaces: [],
        createdAt: now(),
      }
      keep(context)
      const patient = request.appAutoInstantiation || request.appLocationUpdates
      let phase: 'placed' | 'waiting' = 'placed'
      await inTurn(context.id, async () => {
        try {
          await save(context)
          await offload.register(context.ue, spec, { id: context.appId })
          await place(context)
        } catch (error) {
          if (isShoalError(error, 'UNFIT') && patient) phase = 'waiting'
          else {
            await end(context, false).catch((cause) =>
              log.warn({ err: cause }, 'a context is left half-made'),
            )
            throw error
          }
        }
      })
      if (phase === 'placed' && request.callbackReference === undefined) {
        const settled = (): boolean => ran(context) || !contexts.has(context.id)
        await settling.until(context.id, settled, { waitMs, signal })
      }
      // Nobody may hear of it any more: it stays what the next daemon takes back.
      signal.throwIfAborted()
      return inTurn(context.id, async () => {
        if (!contexts.has(context.id)) {
          const why = context.reason === undefined ? '' : `: ${context.reason}`
          throw new ShoalError('UNFIT', `the application did not come to run${why}`)
        }
        const answer = contextView(context, await offload.get(context.ue, context.appId))
        context.phase = phase
        await save(context)
        if (phase === 'waiting') retry(retryMs)
        return answer
      })
    },
    async update(call, id) {
      const known = find(call.ue, id)
      const asked = parseContext(call.body, { contextId: id })
      checkCallback(asked.callbackReference, call)
      await inTurn(id, async () => {
        const context = find(call.ue, id)
        if (context !== known || context.phase === 'deleting') {
          throw new ShoalError('NOT_FOUND', 'this device has no such context')
        }
        refuseOtherChanges(context.request, asked)
        const { callbackReference } = asked
        context.request.appInfo.userAppInstanceInfo = asked.appInfo.userAppInstanceInfo
        if (callbackReference !== undefined) {
          context.request.callbackReference = callbackReference
          context.allowLoopback = call.local
        }
        await save(context)
        if (callbackReference !== undefined) {
          await outbox.redirect(laneOf(id), callbackReference, call.local)
        }
      })
      const context = contexts.get(id)
      // A device that waits and heard of a location names it now.
      if (context?.phase === 'waiting') {
        attempt(context, async () => {
          if (context.phase !== 'waiting') return
          try {
            await place(context)
            context.phase = 'placed'
          } catch (error) {
            if (!isShoalError(error, 'UNFIT')) throw error
          }
          await save(context)
        })
      }
    },
    async remove(ue, id) {
      find(ue, id)
      await inTurn(id, () => end(find(ue, id), false))
    },
    async appDeleted(appId) {
      const context = byApp.get(appId)
      if (context)
        await inTurn(context.id, async () => (contexts.has(context.id) ? end(context, true) : undefined))
    },
    ofApp: (appId) => byApp.get(appId),
    follows(app) {
      const context = byApp.get(app.id)
      return context === undefined || context.request.appLocationUpdates === true
    },
    async close() {
      clearTimeout(retryTimer)
      offChange()
      offMoved()
      stop.abort()
    },
  }
}
