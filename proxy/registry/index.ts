import type { IncomingMessage } from 'node:http'
import express, { type Express, type Request, type Response } from 'express'
import { ShoalError } from '../../base/index.ts'
import type { Storing } from '../../manager/types.ts'
import { createServeHosted, type Hosted } from '../hosted/index.ts'
import type { PinnedImage } from '../pins.ts'
import { createPush, type PushConfig } from '../push/index.ts'
import type { Credential, RepositoryRef } from '../types.ts'
import { type Exchange, hasBody, runExchange, sendFailure, sourceOf } from './exchange.ts'
import { failureOf, type Subject } from './failure.ts'
import { createDoor, type Login } from './login.ts'
import { CHECKPOINTS_HOST } from './names.ts'
import { createParts, type ProxyDependencies, type ProxyParts } from './parts.ts'
import { noneMatch } from './ranges.ts'
import { parseRoute, type Route } from './route.ts'

export type { Login } from './login.ts'
export type { ProxyConfig, ProxyDependencies, ProxyParts } from './parts.ts'

/** A question that came through so many nodes is going in circles, whoever they are. */
const MAX_HOPS = 8
/** What is too old is looked for some time after the start, and then daily. */
const SWEEP_FIRST_MS = 15 * 60_000
const SWEEP_MS = 24 * 3_600_000

/** What the push side needs besides. */
export interface PushDependencies {
  config: PushConfig
  /** Has copies made of what is pushed. */
  storing: Pick<Storing, 'store' | 'forget'>
  /** Throws UNAUTHORIZED or DENIED for a client that may not push. */
  authorize: (request: IncomingMessage) => void
  login?: Login
}

export interface RegistryProxy {
  /** The OCI distribution spec v1.1; give it to an HTTP server. */
  handler: Express
  /** For pulling and listing without HTTP. */
  parts: ProxyParts
  /** Gives the pseudo host `checkpoints` its content, for clients that `authorize` does not throw at; there is nothing below it before. */
  host(hosted: Hosted, authorize: (request: IncomingMessage) => void): void
  /** Empties the directory of uploads and takes up pushes that were not done; nothing can be pushed before. */
  start(): Promise<void>
  close(): Promise<void>
}

/** The registry that runtimes pull from. `name` is shown to clients as `X-Shoal-Node`. */
export function createProxy(
  dependencies: ProxyDependencies & { name: string; push: PushDependencies },
): RegistryProxy {
  const { manager, store, log, now = Date.now } = dependencies
  let hosted: Hosted | undefined
  let serveHosted: ReturnType<typeof createServeHosted> | undefined
  const parts = createParts({
    ...dependencies,
    isSecret: async (digest) => (await hosted?.isSecret(digest)) === true,
  })
  const push = createPush({
    manager,
    store,
    storing: dependencies.push.storing,
    repository: parts.local,
    present: parts.present,
    elsewhere: (digest) => manager.elsewhere(digest),
    images: parts.images,
    authorize: dependencies.push.authorize,
    copies: dependencies.config.localCopies ?? 2,
    policy: dependencies.config.localAck ?? 'quorum',
    config: dependencies.push.config,
    log,
    now,
  })
  const door = createDoor(dependencies.push.login)
  const node = dependencies.name.replace(/[^ -~]/g, '?')

  async function answer(exchange: Exchange, route: Route): Promise<void> {
    const { request } = exchange
    if (route.type === 'login') return door.login(exchange, route.query)
    if (route.type === 'ping') {
      door.ping(request)
      exchange.reply(200, { 'Content-Type': 'application/json' }, Buffer.from('{}'))
      return
    }
    const via = hopsOf(request.headers['x-shoal-via'])
    if (via.includes(manager.self.id) || via.length >= MAX_HOPS) {
      throw new ShoalError(
        'LOOP',
        'this request went through this node before: nodes are upstreams of each other',
      )
    }
    const authorization = door.forUpstream(request.headers.authorization?.trim() || undefined)
    const credential: Credential =
      authorization === undefined ? { kind: 'node' } : { kind: 'client', authorization }
    const { ref } = route
    exchange.facts.repository = `${ref.host}/${ref.repository}`
    if (route.type === 'uploads' || route.type === 'upload') return push.serve(exchange, route)
    if (ref.host === CHECKPOINTS_HOST) {
      if (!serveHosted) throw new ShoalError('NOT_FOUND', 'there are no checkpoints on this node')
      return serveHosted(exchange, route)
    }
    return read(exchange, route, ref, credential, via)
  }

  async function read(
    exchange: Exchange,
    route: Extract<Route, { type: 'manifest' | 'blob' | 'tags' | 'referrers' }>,
    ref: RepositoryRef,
    credential: Credential,
    via: string[],
  ): Promise<void> {
    const { request, signal } = exchange
    const ask = await parts.ask(ref, credential, { via, accept: request.headers.accept, signal })
    switch (route.type) {
      case 'blob':
        exchange.facts.reference = route.digest
        return parts.serveBlob(exchange, ask, route.digest)
      case 'tags':
        return parts.serveTags(exchange, ask, route.page)
      case 'referrers':
        exchange.facts.reference = route.digest
        return parts.serveReferrers(exchange, ask, route.digest, route.page)
      case 'manifest':
        return serveManifest(exchange, ask, route)
    }
  }

  async function change(exchange: Exchange, route: Route): Promise<void> {
    if ('ref' in route) exchange.facts.repository = `${route.ref.host}/${route.ref.repository}`
    if ('tag' in route) exchange.facts.reference = route.tag
    else if ('digest' in route) exchange.facts.reference = route.digest
    await push.serve(exchange, route)
  }

  async function serveManifest(
    exchange: Exchange,
    ask: Awaited<ReturnType<ProxyParts['ask']>>,
    route: Extract<Route, { type: 'manifest' }>,
  ): Promise<void> {
    const options = { priority: 'client', pulled: !exchange.head } as const
    exchange.facts.reference = 'tag' in route ? route.tag : route.digest
    const found =
      'tag' in route
        ? await parts.manifests.byTag(ask, route.tag, options)
        : await parts.manifests.byDigest(ask, route.digest, options)
    exchange.facts.sources = () => found.sources
    const stale = found.staleMs === undefined ? undefined : Math.round(found.staleMs / 1000)
    if (stale !== undefined) exchange.facts.stale = stale
    const headers = {
      'Content-Type': found.mediaType,
      'Docker-Content-Digest': found.digest,
      ETag: `"${found.digest}"`,
      'X-Shoal-Source': sourceOf(found.sources),
      ...(stale === undefined ? {} : { 'X-Shoal-Stale': stale }),
    }
    if (noneMatch(exchange.request.headers['if-none-match'], headers.ETag)) {
      exchange.begin(304, headers)
      exchange.response.end()
    } else {
      exchange.reply(200, headers, found.bytes)
    }
  }

  function handle(request: Request, response: Response): void {
    request.socket.setNoDelay(true)
    response.setHeader('Docker-Distribution-API-Version', 'registry/2.0')
    response.setHeader('X-Content-Type-Options', 'nosniff')
    response.setHeader('X-Shoal-Node', node)
    const reads = request.method === 'HEAD' || request.method === 'GET'
    // Nothing is done with it, however long it comes.
    if (reads && hasBody(request)) response.setHeader('Connection', 'close')
    let subject: Subject = 'name'
    const options = { patienceMs: parts.patienceMs, log, subject: () => subject }
    void runExchange(request, response, options, async (exchange) => {
      const route = parseRoute(request.url, parts.defaultHost)
      if (route.type === 'manifest' || route.type === 'blob') subject = route.type
      if (reads) await answer(exchange, route)
      else await change(exchange, route)
    })
  }

  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  app.use(handle)
  app.use((error: unknown, _request: Request, response: Response, _next: () => void) => {
    log.error({ error: String(error) }, 'a request could not be handled')
    if (response.headersSent) response.destroy()
    else sendFailure(response, false, failureOf(error, 'name'))
  })

  let sweeping = sweepIn(SWEEP_FIRST_MS)
  function sweepIn(ms: number): NodeJS.Timeout {
    return setTimeout(() => {
      parts.sweep().catch((error: unknown) => log.warn({ error: String(error) }, 'sweeping failed'))
      sweeping = sweepIn(SWEEP_MS)
    }, ms).unref()
  }

  return {
    handler: app,
    parts,
    host(content, authorize) {
      hosted = content
      serveHosted = createServeHosted({
        hosted: content,
        authorize,
        through: (exchange, ref, route) => read(exchange, route, ref, { kind: 'node' }, []),
      })
    },
    start: () => push.start(),
    async close() {
      clearTimeout(sweeping)
      await parts.repair.close()
      await push.close()
    },
  }
}

/** The images that came through this node and of which something is here. */
export function listImages(parts: ProxyParts): Promise<PinnedImage[]> {
  return parts.pins.list()
}

function hopsOf(header: string | string[] | undefined): string[] {
  const text = Array.isArray(header) ? header.join(',') : (header ?? '')
  return text
    .split(',')
    .map((hop) => hop.trim())
    .filter((hop) => hop !== '')
    .slice(0, MAX_HOPS + 1)
}
