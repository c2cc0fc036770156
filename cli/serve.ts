import type { RequestListener } from 'node:http'
import type { Log } from '../base/index.ts'
import { formatHostPort, type HostPort } from './address.ts'
import {
  createApi,
  createGate,
  createLagMeter,
  createLogin,
  createMetrics,
  createPushGuard,
  createReadiness,
  createTokenGuard,
  nodeInstruments,
  processInstruments,
} from './api/index.ts'
import type { Config } from './config.ts'
import { type Listener, listenHttp } from './http-server.ts'
import { startMemoryGuard } from './memory-guard.ts'
import type { Rooms } from './rooms.ts'
import { createStoreImage } from './store-room.ts'
import { ensureToken } from './token.ts'
import { keepWanted } from './wanted.ts'

/** Longest that a request to the API may take to come in. */
const REQUEST_MS = 60e3
/** How long requests that are under way may go on when the daemon is stopped. */
const GRACE_MS = 3000

export interface Daemon {
  /** Peer ID. */
  id: string
  addresses: { registry: HostPort; api: HostPort }
  /** Drains, then closes everything, the store last. Calling it again gives the same promise. */
  close(): Promise<void>
}

/** What the registry says before the proxy stands: a runtime with a fallback takes it. */
const notYet: RequestListener = (_req, res) => {
  res.writeHead(503, { 'Content-Type': 'application/json', 'Retry-After': '1' })
  res.end('{"errors":[{"code":"UNAVAILABLE","message":"the daemon is starting"}]}')
}

/**
 * Puts a daemon together and starts it. The API answers /healthz and /readyz from the first moment on, since opening a
 * large store after a crash takes time.
 * @throws ShoalError CONFIG | STORE_LOCKED | STORE_BROKEN; what had been opened is closed again
 */
export async function startDaemon(
  config: Config,
  { rooms, log, version }: { rooms: Rooms; log: Log; version: string },
): Promise<Daemon> {
  const readiness = createReadiness({
    store: 'the store is being opened',
    network: 'the network is not settled yet',
    registry: 'the registry does not listen yet',
  })
  const listeners: Listener[] = []
  const closers: (() => unknown)[] = []
  const onClose = (close: () => unknown): void => void closers.unshift(close)
  let endStreams = async (): Promise<void> => {}
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => {
    closing ??= shutDown({ listeners, endStreams, closers, log })
    return closing
  }

  try {
    onClose(startMemoryGuard({ collect: globalThis.gc }).stop)
    const token = await ensureToken(config.apiToken)
    const gate = createGate(readiness)
    let serveRegistry = notYet
    const listen = async (what: string, at: HostPort, listener: RequestListener): Promise<HostPort> => {
      // A push takes as long as it takes: the proxy ends what stalls.
      const requestMs = what === 'registry' ? 0 : REQUEST_MS
      const made = await listenHttp(what, at, listener, { keepAliveMs: 60e3, requestMs, log })
      listeners.push(made)
      return made.address
    }
    const addresses = {
      api: await listen('API', config.api, gate.listener),
      registry: await listen('registry', config.registry, (req, res) => serveRegistry(req, res)),
    }
    const parts = { config, addresses, log }

    const store = await rooms.openStore(parts)
    onClose(() => store.close())
    readiness.ok('store')
    const names = [config.name, config.api.host, config.registry.host]
    const upstream = await rooms.createUpstream(parts)
    onClose(() => upstream.close())
    const manager = await rooms.createManager({ ...parts, store })
    onClose(() => manager.close())
    manager.members.settled.then(
      () => readiness.ok('network'),
      (error: unknown) => readiness.fail('network', (error as Error).message),
    )
    const proxy = await rooms.createProxy({
      ...parts,
      store,
      manager,
      upstream,
      authorize: createPushGuard({ token, names }),
      needToken: createTokenGuard(token),
      login: createLogin({ token }),
    })
    onClose(() => proxy.close())
    serveRegistry = proxy.listener
    readiness.ok('registry')
    const content = await rooms.followContent({ ...parts, store, manager })
    onClose(() => content.close())
    const platform = await rooms.createPlatform({ ...parts, store, manager, proxy })
    onClose(() => platform.close())

    const lag = createLagMeter()
    onClose(() => lag.close())
    const upstreams = proxy.upstreams ?? (() => [])
    const storeImage = createStoreImage({ collect: proxy.collect, storing: manager.storing })
    const api = createApi({
      manager,
      store,
      images: proxy.images,
      local: proxy.local,
      pull: proxy.pull,
      pins: proxy.pins,
      repair: proxy.repair,
      storeImage,
      storedName: proxy.storedName,
      platform,
      metrics: createMetrics([...nodeInstruments({ manager, store, upstreams }), ...processInstruments(lag)]),
      lag,
      readiness: readiness.checks,
      upstreams,
      config: {
        token,
        version,
        registry: formatHostPort(addresses.registry),
        names,
        scrubEveryMs: config.scrubEvery,
      },
      log,
    })
    const wanted = keepWanted({
      images: config.store,
      manager,
      storeImage,
      storedName: proxy.storedName,
      log,
    })
    onClose(() => wanted.close())
    endStreams = () => api.close()
    gate.open(api.app)
    return { id: manager.self.id, addresses, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function shutDown({
  listeners,
  endStreams,
  closers,
  log,
}: {
  listeners: Listener[]
  endStreams: () => Promise<void>
  closers: (() => unknown)[]
  log: Log
}): Promise<void> {
  const attempt = async (close: () => unknown): Promise<void> => {
    try {
      await close()
    } catch (error) {
      log.error({ err: error }, 'a part did not close cleanly')
    }
  }
  // Event streams and pulls would go on for ever: they are ended, everything else may finish.
  const drained = Promise.all(listeners.map((listener) => listener.drain(GRACE_MS)))
  await Promise.all([attempt(endStreams), drained])
  for (const close of closers) await attempt(close)
}
