import { ShoalError } from '../../base/index.ts'
import type { Offload } from '../offload/types.ts'
import { type StoredContext, wantedPlaces } from './context-record.ts'
import type { Locations } from './location.ts'
import type { Whereabouts } from './whereabouts.ts'

/** Where contexts' applications run. */
export interface ContextPlacing {
  /** @throws UNFIT */
  place(context: StoredContext): Promise<void>
  /** For a context that waits: is there room by now? */
  look(context: StoredContext): Promise<void>
}

export function createContextPlacing(deps: {
  offload: Offload
  locations: Locations
  whereabouts: Whereabouts
  save: (context: StoredContext) => Promise<void>
  tell: (context: StoredContext, body: Record<string, unknown>) => Promise<void>
}): ContextPlacing {
  const { offload, locations, whereabouts, save, tell } = deps

  function whereOf(context: StoredContext): { entry?: string; within?: string[] } {
    const entry = whereabouts.of(context.ue)?.entry
    const within = locations.within(wantedPlaces(context))
    return { ...(entry === undefined ? {} : { entry }), ...(within === undefined ? {} : { within }) }
  }

  async function place(context: StoredContext): Promise<void> {
    const where = whereOf(context)
    if (where.within?.length === 0) throw new ShoalError('UNFIT', 'no node is at any of the locations')
    await offload.offload(context.ue, context.appId, where)
  }

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

  return { place, look }
}
