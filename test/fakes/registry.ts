import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Contents, createContents } from './contents.ts'
import { createAuthDesk, type FakeAuth } from './registry-auth.ts'
import { createBucket, createFaultList, type Fault, sendBody } from './registry-faults.ts'

export type { Contents, FakeImage, ImageOptions } from './contents.ts'
export { pseudoRandom, randomLayer, tarOf } from './layers.ts'
export type { FakeAuth, FakeUser } from './registry-auth.ts'
export type { Fault } from './registry-faults.ts'

export interface FakeRegistryOptions {
  /** Default 127.0.0.1. */
  host?: string
  /** Default 0: any free one. */
  port?: number
  /** Serve https with this key and certificate (PEM). */
  tls?: { key: string; cert: string }
  auth?: FakeAuth
  /** Bytes a second over all connections; default no limit. */
  bytesPerSecond?: number
  /** What it serves, e.g. another fake's `contents` to be its CDN. */
  contents?: Contents
  /** Keep at most this many entries in `requests`; default 10,000. */
  maxLog?: number
}

export interface LoggedRequest {
  method: string
  /** Path with query. */
  url: string
  headers: IncomingHttpHeaders
  status: number
  /** Of the body, as handed to the socket. */
  bytesSent: number
  /** The answer was sent whole or the connection ended. */
  done: boolean
}

/** A registry that serves what it is given and misbehaves on demand. For tests and demonstrations only. */
export interface FakeRegistry extends Contents {
  /** `127.0.0.1:1234`. */
  readonly host: string
  readonly port: number
  /** `http://127.0.0.1:1234`. */
  readonly url: string
  readonly contents: Contents
  readonly requests: LoggedRequest[]
  /** Body bytes sent by digest of the blob or manifest. */
  readonly sent: Map<string, number>
  /** Body bytes of blobs and manifests in all. */
  totalSent(): number
  /** Empties `requests` and `sent`. */
  resetCounters(): void
  fault(fault: Fault): () => void
  clearFaults(): void
  setAuth(auth: FakeAuth | undefined): void
  /** All tokens given out so far are invalid from here on. */
  revokeTokens(): void
  setBandwidth(bytesPerSecond: number | undefined): void
  /** Open connections. */
  connections(): number
  close(): Promise<void>
}

const PATHS = /^\/v2\/(.+?)\/(manifests|blobs|tags|referrers)\/([^/]+)$/

export async function startFakeRegistry(options: FakeRegistryOptions = {}): Promise<FakeRegistry> {
  const contents = options.contents ?? createContents()
  const desk = createAuthDesk(options.auth)
  const faultList = createFaultList()
  const bucket = createBucket(options.bytesPerSecond)
  const requests: LoggedRequest[] = []
  const sent = new Map<string, number>()
  const sockets = new Set<Socket>()

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '/'
    const method = request.method ?? 'GET'
    const entry: LoggedRequest = {
      method,
      url: path,
      headers: request.headers,
      status: 0,
      bytesSent: 0,
      done: false,
    }
    requests.push(entry)
    if (requests.length > (options.maxLog ?? 10_000)) requests.shift()
    response.on('close', () => {
      entry.done = true
    })
    const faults = faultList.take(method, path)
    for (const [name, value] of Object.entries(faults.headers ?? {})) response.setHeader(name, value)
    if (faults.delay !== undefined) await sleep(faults.delay, undefined, { ref: false })
    if (faults.hangUp) return void request.socket.destroy()
    if (faults.stallHeaders) return

    const head = (status: number, headers: Record<string, string | number>): void => {
      entry.status = status
      response.writeHead(status, headers)
    }
    const json = (status: number, body: unknown, headers: Record<string, string> = {}): void => {
      const bytes = Buffer.from(JSON.stringify(body))
      entry.bytesSent = method === 'HEAD' ? 0 : bytes.length
      head(status, { 'Content-Type': 'application/json', 'Content-Length': bytes.length, ...headers })
      response.end(method === 'HEAD' ? undefined : bytes)
    }
    const fail = (status: number, code: string, headers: Record<string, string> = {}): void =>
      json(status, { errors: [{ code, message: code.toLowerCase().replaceAll('_', ' ') }] }, headers)

    if (faults.status !== undefined) {
      const codes: Record<number, string> = { 401: 'UNAUTHORIZED', 403: 'DENIED', 429: 'TOOMANYREQUESTS' }
      const later = faults.retryAfter === undefined ? {} : { 'Retry-After': String(faults.retryAfter) }
      return fail(faults.status, codes[faults.status] ?? 'UNKNOWN', later)
    }
    if (faults.redirect !== undefined) {
      head(faults.redirectStatus ?? 307, { Location: `${faults.redirect}${path}`, 'Content-Length': 0 })
      return void response.end()
    }
    const url = new URL(path, base)
    if (url.pathname === '/token') {
      const { status, body } = desk.token(request, url, method === 'POST' ? await form(request) : undefined)
      return json(status, body)
    }
    const [, name, kind, reference] = PATHS.exec(decodeURIComponent(url.pathname)) ?? []
    // A CDN has its own signatures instead of the registry's log-in; here: no auth where none was set.
    const refusal = desk.refuse(request, name, base)
    if (refusal) {
      const challenge: Record<string, string> =
        refusal.challenge === undefined ? {} : { 'WWW-Authenticate': refusal.challenge }
      return fail(refusal.status, refusal.status === 401 ? 'UNAUTHORIZED' : 'DENIED', challenge)
    }
    if (url.pathname === '/v2/' || url.pathname === '/v2') return json(200, {})
    if (method !== 'GET' && method !== 'HEAD') return fail(405, 'UNSUPPORTED')
    const repository = contents.repositories.get(name ?? '')
    if (!repository || kind === undefined || reference === undefined) return fail(404, 'NAME_UNKNOWN')
    if (kind === 'tags') {
      const page = tagPage([...repository.tags.keys()], url)
      const next = page.next === undefined ? {} : { Link: `<${url.pathname}?${page.next}>; rel="next"` }
      return json(200, { name, tags: page.tags }, next)
    }
    if (kind === 'referrers') {
      const wanted = url.searchParams.get('artifactType')
      return json(200, referrersOf(repository.manifests, reference, wanted), {
        'Content-Type': 'application/vnd.oci.image.index.v1+json',
        ...(wanted === null ? {} : { 'OCI-Filters-Applied': 'artifactType' }),
      })
    }
    const digest = reference.includes(':') ? reference : (repository.tags.get(reference) ?? '')
    const manifest = repository.manifests.get(digest)
    const bytes = kind === 'manifests' ? manifest?.bytes : repository.blobs.get(digest)
    if (!bytes) return fail(404, kind === 'manifests' ? 'MANIFEST_UNKNOWN' : 'BLOB_UNKNOWN')

    const headers: Record<string, string | number> = {
      'Content-Type': kind === 'manifests' ? (manifest?.mediaType ?? '') : 'application/octet-stream',
      ETag: `"${digest}"`,
    }
    if (!faults.noDigest) headers['Docker-Content-Digest'] = digest
    if (!faults.noRange) headers['Accept-Ranges'] = 'bytes'
    const range = faults.noRange ? 'all' : parseRange(request.headers.range, bytes.length)
    if (range === 'none') {
      return fail(416, 'RANGE_INVALID', { 'Content-Range': `bytes */${bytes.length}` })
    }
    const body = range === 'all' ? bytes : bytes.subarray(range.start, range.end)
    if (range !== 'all') headers['Content-Range'] = `bytes ${range.start}-${range.end - 1}/${bytes.length}`
    if (!faults.chunked) headers['Content-Length'] = body.length
    head(range === 'all' ? 200 : 206, headers)
    if (method === 'HEAD') return void response.end()
    response.flushHeaders()
    await sendBody(response, body, faults, bucket, (count) => {
      entry.bytesSent += count
      sent.set(digest, (sent.get(digest) ?? 0) + count)
    })
  }

  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    request.on('error', () => {})
    response.on('error', () => {})
    answer(request, response).catch(() => request.socket.destroy())
  }
  const server = options.tls ? createTlsServer(options.tls, listener) : createServer(listener)
  server.keepAliveTimeout = 30_000
  server.on(options.tls ? 'secureConnection' : 'connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port ?? 0, options.host ?? '127.0.0.1', () => resolve())
  })
  const { port } = server.address() as AddressInfo
  const address = options.host ?? '127.0.0.1'
  const host = `${address.includes(':') ? `[${address}]` : address}:${port}`
  const base = `${options.tls ? 'https' : 'http'}://${host}`

  return {
    ...contents,
    contents,
    host,
    port,
    url: base,
    requests,
    sent,
    totalSent: () => [...sent.values()].reduce((sum, count) => sum + count, 0),
    resetCounters() {
      requests.length = 0
      sent.clear()
    },
    fault: faultList.add,
    clearFaults: faultList.clear,
    setAuth(auth) {
      desk.auth = auth
    },
    revokeTokens: desk.revokeTokens,
    setBandwidth(rate) {
      bucket.rate = rate
    },
    connections: () => sockets.size,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

function tagPage(all: string[], url: URL): { tags: string[]; next: string | undefined } {
  const last = url.searchParams.get('last')
  const n = url.searchParams.get('n')
  const sorted = all.sort().filter((tag) => last === null || tag > last)
  const tags = n === null ? sorted : sorted.slice(0, Number(n))
  const more = tags.length < sorted.length && tags.length > 0
  return { tags, next: more ? `n=${n}&last=${encodeURIComponent(tags.at(-1) ?? '')}` : undefined }
}

function referrersOf(
  manifests: Map<string, { mediaType: string; bytes: Buffer }>,
  subject: string,
  wanted: string | null,
): object {
  const found = []
  for (const [digest, { mediaType, bytes }] of manifests) {
    const json = JSON.parse(bytes.toString('utf8')) as {
      subject?: { digest?: string }
      artifactType?: string
      config?: { mediaType?: string }
    }
    const artifactType = json.artifactType ?? json.config?.mediaType
    if (json.subject?.digest !== subject || (wanted !== null && artifactType !== wanted)) continue
    found.push({ mediaType, digest, size: bytes.length, artifactType })
  }
  return { schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests: found }
}

/** `end` is exclusive. `none`: cannot be satisfied. Only single ranges; others get everything, as the RFC allows. */
function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'all' | 'none' {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '')
  if (!match || (match[1] === '' && match[2] === '')) return 'all'
  if (match[1] === '') {
    const suffix = Math.min(Number(match[2]), size)
    return suffix === 0 ? 'none' : { start: size - suffix, end: size }
  }
  const start = Number(match[1])
  const end = match[2] === '' ? size : Math.min(Number(match[2]) + 1, size)
  if (start >= size) return 'none'
  return start < end ? { start, end } : 'all'
}

async function form(request: IncomingMessage): Promise<URLSearchParams> {
  const parts: Buffer[] = []
  for await (const part of request) parts.push(part as Buffer)
  return new URLSearchParams(Buffer.concat(parts).toString('utf8'))
}
