import type { Log } from '../../base/index.ts'
import type { App, Offload } from '../offload/types.ts'
import { ran, type StoredContext } from './context-record.ts'
import type { ContextTable } from './context-table.ts'
import { instancesOf } from './instances.ts'
import type { Locations } from './location.ts'
import type { Outbox } from './outbox.ts'
import type { Settling } from './settling.ts'

const GONE_MS = 500

/** What becomes of contexts' applications, told to their devices. */
export interface ContextFollowing {
  tell(context: StoredContext, body: Record<string, unknown>): Promise<void>
  /** Nothing of it is to be left, and the device hears of that only where `say`. */
  end(context: StoredContext, say: boolean): Promise<void>
  /** What became of the application is told to the device, as far as it does not know it. In the context's turn. */
  follow(context: StoredContext, app: App): Promise<void>
  /** Does the work in the context's turn, in the background. */
  attempt(context: StoredContext, work: () => Promise<void>): void
}

export const laneOf = (id: string): string => `context/${id}`

export function createContextFollowing(deps: {
  table: ContextTable
  offload: Offload
  outbox: Outbox
  locations: Locations
  settling: Settling
  inTurn: (id: string, work: () => Promise<void>) => Promise<void>
  /** It could not be deleted: that is tried again after a while. */
  later: () => void
  closing: AbortSignal
  log: Log
}): ContextFollowing {
  const { table, offload, outbox, locations, settling, inTurn, later, closing, log } = deps
  const { save, forget } = table

  async function tell(context: StoredContext, body: Record<string, unknown>): Promise<void> {
    const url = context.request.callbackReference
    if (url === undefined) return
    const { ue, id, allowLoopback } = context
    await outbox.add({ lane: laneOf(id), ue, url, allowLoopback, body })
  }

  async function end(context: StoredContext, say: boolean): Promise<void> {
    context.phase = 'deleting'
    await save(context)
    try {
      await offload.delete(context.ue, context.appId, closing)
    } catch (error) {
      later()
      throw error
    }
    if (say) {
      await tell(context, { notificationType: 'ApplicationContextDeleteNotification', contextId: context.id })
    } else await outbox.forget(laneOf(context.id))
    await forget(context)
  }

  async function follow(context: StoredContext, app: App): Promise<void> {
    if (context.phase === 'deleting' || table.get(context.id) !== context) return
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
      if (closing.aborted || context.phase === 'deleting' || !table.has(context.id)) return
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
      if (!closing.aborted) log.warn({ context: context.id, err: error }, 'a context could not be followed')
    })
  }

  return { tell, end, follow, attempt }
}
