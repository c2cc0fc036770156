import { type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Membership, PeerId, Rpc, SharedRecords } from '../../manager/index.ts'
import type { Offload } from '../offload/types.ts'
import { createAmsiRoutes } from './amsi-routes.ts'
import { createMecApp, EVENTS_ROUTE } from './app.ts'
import { createAppEvents } from './app-events.ts'
import { createAppRoutes } from './app-routes.ts'
import { createCatalogue } from './catalogue.ts'
import type { StoredContext } from './context-record.ts'
import { createContexts } from './contexts.ts'
import { createDevAppRoutes } from './dev-app-routes.ts'
import { createForwarder, type Forwarder } from './forward.ts'
import { createLocations, parsePlace } from './location.ts'
import { createMobility } from './mobility.ts'
import type { StoredRegistration, StoredSubscription } from './notices.ts'
import { createOffers, type Offers } from './offers.ts'
import { createOutbox, type Note, type OutboxLimits } from './outbox.ts'
import { problemOf } from './problem.ts'
import { createRouter, refusal } from './router.ts'
import { listenMec, type MecListen } from './server.ts'
import { createTokens } from './tokens.ts'
import type { Call, Device, MecTokens, Reply } from './types.ts'
import { createWhereabouts, type Whereabout } from './whereabouts.ts'

const GRACE_MS = 3000

export interface MecConfig {
  listen: MecListen
  /** Where this node is: `DE` or `DE@52.52,13.40`. */
  place?: string
  /** Beginnings of URLs that application packages may be fetched from. */
  packageSources: string[]
  version: string
  /** For tests. */
  outbox?: Partial<OutboxLimits>
  waitMs?: number
  retryMs?: number
}

/** The MEC API of this node. */
export interface Mec {
  /** Where it listens. */
  readonly address: { host: string; port: number }
  readonly tokens: MecTokens
  readonly offers: Offers
  /** `METHOD /path/{id}` of everything that is served. */
  readonly routes: string[]
  close(): Promise<void>
}

/**
 * Serves devices. Each device has a home, the node at which its first token was made: all that it has is kept there, and the
 * other nodes hand its requests on.
 * @throws CONFIG when it cannot listen
 */
export async function createMec({
  offload,
  members,
  rpc,
  records,
  table,
  config,
  log: parentLog,
}: {
  offload: Offload
  members: Membership
  rpc: Rpc
  records: SharedRecords
  /** Tables of this node's own. */
  table: <T>(name: string) => Records<T>
  config: MecConfig
  log: Log
}): Promise<Mec> {
  const log = parentLog.child({ part: 'mec' })
  const self = members.self.id
  const place = config.place === undefined ? undefined : parsePlace(config.place)
  const stop = new AbortController()
  const closers: (() => unknown)[] = []
  const onClose = <T extends { close(): unknown }>(part: T): T => {
    closers.unshift(() => part.close())
    return part
  }

  const isLive = (node: PeerId): boolean => {
    const state = members.find(node)?.state
    return state === 'alive' || state === 'suspect'
  }

  try {
    const tokens = onClose(await createTokens({ records, self, isLive, log }))
    const offers = onClose(await createOffers({ records }))
    const locations = onClose(await createLocations({ records, members, own: place }))
    const whereabouts = await createWhereabouts({ records: table<Whereabout>('mec.whereabouts') })
    const outbox = onClose(
      await createOutbox({
        records: table<Note>('mec.outbox'),
        log,
        ...(config.outbox ? { limits: config.outbox } : {}),
      }),
    )
    const catalogue = createCatalogue({
      offers,
      sites: locations.sites,
      packageSources: config.packageSources,
    })
    const contexts = onClose(
      await createContexts({
        records: table<StoredContext>('mec.contexts'),
        offload,
        outbox,
        catalogue,
        locations,
        whereabouts,
        log,
        ...(config.waitMs === undefined ? {} : { waitMs: config.waitMs }),
        ...(config.retryMs === undefined ? {} : { retryMs: config.retryMs }),
      }),
    )
    const mobility = onClose(
      await createMobility({
        records: {
          registrations: table<StoredRegistration>('mec.registrations'),
          subscriptions: table<StoredSubscription>('mec.subscriptions'),
        },
        offload,
        outbox,
        members,
        contextOf: (appId) => contexts.ofApp(appId)?.request,
        onConfirmed: (ue, appId) => follow(ue, ({ id }) => id === appId),
        log,
      }),
    )

    /** Has applications of a device follow it; a migration takes its time, and nobody waits for it. */
    function follow(ue: string, which: (app: { id: string }) => boolean): void {
      const entry = whereabouts.of(ue)?.entry
      if (entry === undefined) return
      offload
        .moved(ue, entry, (app) => contexts.follows(app) && which(app))
        .catch((error) => log.warn({ err: error, ue, entry }, 'applications could not follow their device'))
    }

    function moved(ue: string): void {
      void offload
        .list(ue)
        .then(async (apps) => {
          const free = new Set(apps.filter((app) => mobility.mayMove(app)).map(({ id }) => id))
          await mobility.deviceMoved(ue)
          follow(ue, ({ id }) => free.has(id))
        })
        .catch((error) => log.warn({ err: error, ue }, 'it was not seen to that applications follow'))
    }

    /**
     * A device that found another home while this node was away gave up what it has here. Whose home this never was may have something
     * here all the same: this is the next manager of its home.
     */
    async function letGo({ ue, home }: Device): Promise<void> {
      if (home === self || !whereabouts.of(ue)) return
      for (const { id } of await offload.list(ue)) {
        log.warn({ ue, app: id, home }, 'the device has another home now: its application here goes')
        if (contexts.ofApp(id)) await contexts.appDeleted(id)
        else await offload.delete(ue, id, stop.signal)
      }
      await whereabouts.forget(ue)
    }

    const letGoQuietly = (device: Device): void =>
      void letGo(device).catch((error) => {
        if (!stop.signal.aborted) log.warn({ err: error, ue: device.ue }, 'an application was not let go')
      })
    const signal = stop.signal
    const routes = [
      ...createAppRoutes({ offload, contexts, whereabouts, members, moved, signal }),
      ...createDevAppRoutes({ offload, contexts, catalogue, locations, whereabouts, signal }),
      ...createAmsiRoutes({ mobility }),
    ]
    const router = createRouter(routes, log)

    async function handleHere(call: Call): Promise<Reply> {
      if (await whereabouts.seen(call.ue, call.entry)) moved(call.ue)
      return router.handle(call)
    }

    async function dispatch(device: Device, call: Call, gone: AbortSignal): Promise<Reply> {
      try {
        if (device.home === self) return await handleHere(call)
        return await forwarder.forward(device.home, call, gone)
      } catch (error) {
        return refusal(problemOf(error))
      }
    }

    const forwarder: Forwarder = createForwarder({
      rpc,
      members,
      async handle(call) {
        const home = tokens.device(call.ue)?.home
        if (home !== undefined && home !== self) {
          return refusal(problemOf(new ShoalError('BUSY', 'the device has found another home')))
        }
        // Loopback of another node is not this one's.
        return handleHere({ ...call, local: false })
      },
      onWatch: (peer, ue, id) => events.watchedBy(peer, ue, id),
      onTold: (event) => events.told(event),
      log,
    })
    const events = createAppEvents({
      offload,
      self,
      forwarder,
      contextId: (id) => contexts.ofApp(id)?.id,
      log,
    })

    const described = [...routes.map(({ method, path }) => `${method.toUpperCase()} ${path}`), EVENTS_ROUTE]
    let at = { host: config.listen.host, port: config.listen.port }
    const app = createMecApp({
      tokens,
      router,
      dispatch,
      events,
      self,
      address: () => (at.host.includes(':') ? `[${at.host}]:${at.port}` : `${at.host}:${at.port}`),
      document: async () => {
        const { openApiDocument } = await import('./openapi.ts')
        return openApiDocument(config.version)
      },
      log,
    })
    const server = await listenMec(config.listen, app)
    at = { host: server.host, port: server.port }
    // What was under way when the last daemon ended.
    for (const [ue] of whereabouts.all()) moved(ue)
    for (const device of tokens.devices()) letGoQuietly(device)
    const offDevice = tokens.onDevice(letGoQuietly)
    closers.unshift(offDevice)
    log.info({ ...at, tls: config.listen.cert !== undefined }, 'the MEC API listens')

    return {
      address: at,
      tokens,
      offers,
      routes: described,
      async close() {
        stop.abort(new ShoalError('ABORTED', 'the daemon stops'))
        events.close()
        await server.close(GRACE_MS)
        for (const close of closers) await close()
      },
    }
  } catch (error) {
    for (const close of closers) await close()
    throw error
  }
}
