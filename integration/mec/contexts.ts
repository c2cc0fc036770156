import { randomBytes } from 'node:crypto'
import { createTurns, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { App, Offload } from '../offload/types.ts'
import { checkCallback } from './callback-target.ts'
import type { Catalogue } from './catalogue.ts'
import { parseContext } from './context-body.ts'
import { createContextFollowing, laneOf } from './context-following.ts'
import { createContextPlacing } from './context-placing.ts'
import { contextView, ran, refuseOtherChanges, type StoredContext } from './context-record.ts'
import { openContextTable } from './context-table.ts'
import { createContextWaiting } from './context-waiting.ts'
import type { Locations } from './location.ts'
import type { Outbox } from './outbox.ts'
import { createSettling } from './settling.ts'
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
  const settling = createSettling()
  const inTurn = createTurns().run
  const stop = new AbortController()
  const closing = stop.signal
  const table = await openContextTable({ records, settling })
  const { find, keep, save } = table
  const following = createContextFollowing({
    table,
    offload,
    outbox,
    locations,
    settling,
    inTurn,
    later: () => retry(retryMs),
    closing,
    log,
  })
  const { end, follow, attempt } = following
  const placing = createContextPlacing({ offload, locations, whereabouts, save, tell: following.tell })
  const { place } = placing
  const waiting = createContextWaiting({ table, following, placing, closing, retryMs })
  const { retry } = waiting

  const offChange = offload.onChange((app) => {
    const context = table.ofApp(app.id)
    if (context) attempt(context, () => follow(context, app))
    if (app.state === 'deleting') retry(1000)
  })
  const offMoved = offload.onMoved(({ app, status }) => {
    const context = table.ofApp(app.id)
    if (context && status === 'moved') attempt(context, () => follow(context, app))
  })
  // What the last daemon left: those whose device got no answer are not wanted, the others are looked after.
  for (const context of table.all()) {
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
      if (table.count(call.ue) >= MAX_CONTEXTS) {
        throw new ShoalError('DENIED', `the device has ${MAX_CONTEXTS} contexts: delete one`)
      }
      const own = (await offload.list(call.ue)).filter(({ id }) => !table.ofApp(id))
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
        const settled = (): boolean => ran(context) || !table.has(context.id)
        await settling.until(context.id, settled, { waitMs, signal })
      }
      // Nobody may hear of it any more: it stays what the next daemon takes back.
      signal.throwIfAborted()
      return inTurn(context.id, async () => {
        if (!table.has(context.id)) {
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
      const context = table.get(id)
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
      const context = table.ofApp(appId)
      if (context)
        await inTurn(context.id, async () => (table.has(context.id) ? end(context, true) : undefined))
    },
    ofApp: table.ofApp,
    follows(app) {
      const context = table.ofApp(app.id)
      return context === undefined || context.request.appLocationUpdates === true
    },
    async close() {
      waiting.close()
      offChange()
      offMoved()
      stop.abort()
    },
  }
}
