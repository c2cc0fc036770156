import { createHash } from 'node:crypto'
import { digestOf, isDigest, type Log, ShoalError } from '../../base/index.ts'
import type {
  Credential,
  Head,
  Kind,
  RepositoryRef,
  Upstream,
  UpstreamConfig,
  UpstreamOptions,
} from '../types.ts'
import { basicHeader, createAuth } from './auth.ts'
import { readAll } from './body.ts'
import { createCircuits } from './circuit.ts'
import { createHosts, type Target } from './hosts.ts'
import { type AskedRange, extentOf, rangeHeader, unsatisfiedSize } from './range.ts'
import { createRequester, type Reply } from './requester.ts'
import { createSecrets } from './secrets.ts'
import { createShortcuts } from './shortcuts.ts'
import { statusError } from './status.ts'
import { contentLength, createTransport } from './transport.ts'

const HEAD_MS = 5_000
const BODY_MS = 30_000
const IDENTITY_MS = 5_000
const SMALL_BYTES = 4 * 1024 * 1024
const REFERENCE = /^(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128}))$/
const MANIFEST_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
  '*/*;q=0.5',
].join(', ')

interface Call extends UpstreamOptions {
  range?: AskedRange
}

/** The client of the upstream registries. @throws CONFIG for an unusable mirror address or authority file */
export function createUpstream(options: { config: UpstreamConfig; log: Log }): Upstream {
  const { config, log } = options
  const hosts = createHosts(config.mirrors)
  const transport = createTransport({
    ca: config.ca,
    connectMs: config.connectMs,
    stallMs: config.stallMs,
    log,
  })
  const circuits = createCircuits()
  const requester = createRequester({ transport, circuits, retries: config.retries, log })
  const secrets = createSecrets({ credentials: config.credentials, dockerConfig: config.dockerConfig, log })
  const auth = createAuth({ secrets, requester, log })
  const shortcuts = createShortcuts()

  /** One request under the caller's or the node's rights, the log-in included. */
  async function authorized(
    target: Target,
    request: { method: 'GET' | 'HEAD'; url: URL; headers: Record<string, string>; verified: boolean },
    call: { credential: Credential; via?: string[]; signal: AbortSignal; deadline: number },
  ): Promise<Reply> {
    const { credential, signal, deadline } = call
    const via = call.via?.length ? { 'x-shoal-via': call.via.join(', ') } : {}
    const ask = (authorization: string | undefined): Promise<Reply> => {
      const ownHeaders = { ...via, ...(authorization === undefined ? {} : { authorization }) }
      return requester.ask({ ...request, ownHeaders, signal, deadline, where: target.label })
    }
    if (credential.kind === 'client') return ask(credential.authorization)
    const used = await auth.current(target, call)
    const first = await ask(used)
    if (first.status !== 401 || first.foreign) return first
    const fresh = await auth.answer(target, first.headers['www-authenticate'], used, call).catch((error) => {
      first.body.discard()
      throw error
    })
    if (fresh === undefined) return first
    first.body.discard()
    const second = await ask(fresh)
    if (second.status === 401 && !second.foreign) auth.refused(target)
    return second
  }

  async function send(
    method: 'GET' | 'HEAD',
    ref: RepositoryRef,
    kind: Kind,
    reference: string,
    call: Call & { timeoutMs: number },
  ): Promise<{ reply: Reply; target: Target }> {
    if (!REFERENCE.test(reference)) {
      throw new ShoalError('NAME_INVALID', `not a tag or digest: ${reference.slice(0, 160)}`)
    }
    const target = hosts.resolve(ref)
    const range = rangeHeader(call.range)
    const accept = call.accept ?? (kind === 'manifests' ? MANIFEST_TYPES : '*/*')
    const request = {
      method,
      url: new URL(`${target.origin}${target.path}/${kind}/${reference}`),
      headers: { accept, ...(range === undefined ? {} : { range }) },
      verified: isDigest(reference),
    }
    const bounds = { ...call, deadline: performance.now() + call.timeoutMs }
    if (method !== 'GET' || kind !== 'blobs')
      return { reply: await authorized(target, request, bounds), target }

    const key = `${target.label} ${reference} ${rightsOf(call.credential)}`
    const shortcut = shortcuts.find(key)
    if (shortcut) {
      const { signal, deadline } = bounds
      const direct = {
        ...request,
        url: shortcut,
        ownHeaders: {},
        signal,
        deadline,
        where: target.label,
      }
      const reply = await requester.ask(direct)
      if (reply.status === 200 || reply.status === 206) return { reply, target }
      // Its signature has expired, most likely: the registry gives a new one.
      reply.body.discard()
      shortcuts.forget(key)
    }
    const reply = await authorized(target, request, bounds)
    if (reply.foreign && (reply.status === 200 || reply.status === 206)) shortcuts.keep(key, reply.url)
    return { reply, target }
  }

  async function head(
    ref: RepositoryRef,
    kind: Kind,
    reference: string,
    call: UpstreamOptions,
  ): Promise<Head> {
    const started = performance.now()
    const timeoutMs = call.timeoutMs ?? HEAD_MS
    const { reply, target } = await send('HEAD', ref, kind, reference, { ...call, timeoutMs })
    const { status, headers } = reply
    // Some registries have no HEAD, and some blob stores sign for GET only.
    const refused = status === 405 || status === 501 || (reply.foreign && status >= 400 && status !== 404)
    if (status !== 200 && !refused) throw await statusError(reply, target.label)
    reply.body.discard()
    const digest = isDigest(reference) ? reference : isDigest(reply.digest ?? '') ? reply.digest : undefined
    if (status === 200 && digest !== undefined) {
      return { digest, size: contentLength(headers), mediaType: headers['content-type'] }
    }
    const left = Math.max(1, timeoutMs - (performance.now() - started))
    return headByGet(ref, kind, reference, { ...call, timeoutMs: left })
  }

  async function headByGet(
    ref: RepositoryRef,
    kind: Kind,
    reference: string,
    call: UpstreamOptions & { timeoutMs: number },
  ): Promise<Head> {
    const range = { start: 0, end: 1 }
    const asked = kind === 'blobs' ? { ...call, range } : call
    const { reply, target } = await send('GET', ref, kind, reference, asked)
    const mediaType = reply.headers['content-type']
    if (kind === 'blobs' && reply.status === 416) {
      reply.body.discard()
      return {
        digest: reference,
        size: unsatisfiedSize(reply.headers['content-range']),
        mediaType: undefined,
      }
    }
    if (reply.status !== 200 && reply.status !== 206) throw await statusError(reply, target.label)
    if (kind === 'blobs') {
      reply.body.discard()
      return { digest: reference, size: extentOf(reply, range, target.label).size, mediaType }
    }
    const bytes = await readAll(reply.body, SMALL_BYTES, target.label)
    return { digest: isDigest(reference) ? reference : digestOf(bytes), size: bytes.length, mediaType }
  }

  async function fetch(
    ref: RepositoryRef,
    kind: Kind,
    reference: string,
    call: Call,
  ): ReturnType<Upstream['fetch']> {
    const asked = finite(call.range)
    const { range: _, ...rest } = call
    const timeoutMs = call.timeoutMs ?? BODY_MS
    const { reply, target } = await send('GET', ref, kind, reference, {
      ...rest,
      ...(asked ? { range: asked } : {}),
      timeoutMs,
    })
    const { status, headers, body } = reply
    if (status !== 200 && status !== 206) {
      const error = await statusError(reply, target.label)
      if (status !== 416) throw error
      const size = unsatisfiedSize(headers['content-range'])
      throw new ShoalError('UPSTREAM_STATUS', error.message, { details: { ...error.details, size } })
    }
    try {
      const extent = extentOf(reply, asked, target.label)
      body.expected = extent.length
      const { start, size, ranged } = extent
      return { start, size, ranged, mediaType: headers['content-type'], digest: reply.digest, body }
    } catch (error) {
      body.discard()
      throw error
    }
  }

  async function get(ref: RepositoryRef, path: string, call: UpstreamOptions): ReturnType<Upstream['get']> {
    const target = hosts.resolve(ref)
    const base = `${target.path}/`
    const url = new URL(`${target.origin}${base}${path}`)
    if (!url.pathname.startsWith(base) || url.origin !== target.origin) {
      throw new ShoalError('NAME_INVALID', `not below the repository: ${path.slice(0, 160)}`)
    }
    const deadline = performance.now() + (call.timeoutMs ?? BODY_MS)
    const reply = await authorized(
      target,
      { method: 'GET', url, headers: { accept: call.accept ?? '*/*' }, verified: false },
      { ...call, deadline },
    )
    const { status, headers } = reply
    if (status === 401 || status === 403 || status === 429 || status >= 500) {
      throw await statusError(reply, target.label)
    }
    return { status, headers, body: await readAll(reply.body, SMALL_BYTES, target.label) }
  }

  return {
    head,
    fetch,
    get,
    origin: (ref, kind, digest, credential, via) => ({
      label: `${ref.host}/${ref.repository}`,
      fetch: (range, signal) =>
        fetch(ref, kind, digest, { credential, signal, range, ...(via ? { via } : {}) }),
    }),
    async identity(host) {
      const secret = await secrets.find(hosts.place(host), AbortSignal.timeout(IDENTITY_MS))
      if (!secret) return undefined
      return 'password' in secret ? basicHeader(secret) : `Identity ${secret.identityToken}`
    },
    doubt: (place) => transport.doubt(typeof place === 'string' ? place : hosts.resolve(place).origin),
    onUnreachable: circuits.onOpen,
    close: transport.close,
  }
}

/** The client's header is kept as a hash only. */
function rightsOf(credential: Credential): string {
  if (credential.kind === 'node') return 'node'
  return createHash('sha256').update(credential.authorization).digest('base64')
}

function finite(range: AskedRange | undefined): AskedRange | undefined {
  return range?.end !== undefined && !Number.isFinite(range.end)
    ? { start: range.start, end: undefined }
    : range
}
