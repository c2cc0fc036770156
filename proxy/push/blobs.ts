import { parseDigest } from '../../base/index.ts'
import type { Manager } from '../../manager/types.ts'
import type { LocalRepository, Present } from '../local/index.ts'
import type { Exchange } from '../registry/exchange.ts'
import { refusal } from '../registry/failure.ts'
import { LOCAL_HOST } from '../registry/names.ts'
import { type Page, parseUpstream, type Route } from '../registry/route.ts'
import type { Holding } from './holding.ts'
import { contentRange, lengthOf, receive } from './receiving.ts'
import type { Upload, Uploads } from './uploads.ts'

type UploadRoute = Extract<Route, { type: 'uploads' | 'upload' }>

/** Answers what the distribution spec has under `blobs/uploads/`. */
export function createServeUploads(parts: {
  manager: Pick<Manager, 'ingest'>
  repository: Pick<LocalRepository, 'putLink'>
  present: Present
  uploads: Uploads
  holding: Holding
}): (exchange: Exchange, route: UploadRoute) => Promise<void> {
  const { manager, repository, present, uploads, holding } = parts

  /** Where the upload goes on; relative, as only the client knows under which name it reached this node. */
  function locationOf(page: Page, upload: Upload): string {
    const base = page.path.slice(0, page.path.lastIndexOf('/uploads') + '/uploads'.length)
    return `${base}/${upload.id}${nsOf(page)}`
  }

  function progress(page: Page, upload: Upload): Record<string, string | number> {
    return {
      Location: locationOf(page, upload),
      Range: `0-${Math.max(0, upload.size - 1)}`,
      'Docker-Upload-UUID': upload.id,
    }
  }

  function accepted(exchange: Exchange, page: Page, upload: Upload): void {
    exchange.reply(202, progress(page, upload), Buffer.alloc(0))
  }

  function created(exchange: Exchange, page: Page, digest: string): void {
    const base = page.path.slice(0, page.path.lastIndexOf('/uploads'))
    const headers = { Location: `${base}/${digest}${nsOf(page)}`, 'Docker-Content-Digest': digest }
    exchange.reply(201, headers, Buffer.alloc(0))
  }

  async function begin(exchange: Exchange, { ref, page }: UploadRoute): Promise<void> {
    const { query } = page
    const mounted = query.get('mount')
    if (mounted !== null && (await mount(exchange, ref.repository, page, mounted))) return
    const digest = query.get('digest')
    const wanted = digest === null ? undefined : parseDigest(digest)
    const upload = await uploads.begin(ref.repository)
    if (wanted === undefined) return accepted(exchange, page, upload)
    try {
      await upload.add(receive(exchange.request, exchange.signal), lengthOf(exchange.request))
      await finish(exchange, page, upload, wanted)
    } finally {
      // Its client never learns the ID.
      await upload.remove()
    }
  }

  /** Makes a blob of another local repository part of this one, where it is there. */
  async function mount(exchange: Exchange, name: string, page: Page, text: string): Promise<boolean> {
    const digest = parseDigest(text)
    const from = page.query.get('from')
    if (from === null) return false
    const source = parseUpstream(from.split('/'), page.ns, 'docker.io')
    const size = source.host === LOCAL_HOST ? await present(source.repository, digest) : undefined
    if (size === undefined) return false
    holding.add(digest)
    await repository.putLink(name, digest, size, exchange.signal)
    created(exchange, page, digest)
    return true
  }

  /** Takes a chunk in: it has to begin where the last one ended, if it says where it begins. */
  async function append(exchange: Exchange, page: Page, upload: Upload): Promise<void> {
    const { request, signal } = exchange
    const range = contentRange(request)
    const length = lengthOf(request)
    if (range && range.start !== upload.size) {
      throw refusal(
        416,
        'BLOB_UPLOAD_INVALID',
        `the next byte is ${upload.size}, not ${range.start}`,
        Object.fromEntries(
          Object.entries(progress(page, upload)).map(([key, value]) => [key, String(value)]),
        ),
      )
    }
    if (range && length !== undefined && range.length !== length) {
      throw refusal(400, 'SIZE_INVALID', `Content-Range has ${range.length} bytes, Content-Length ${length}`)
    }
    await upload.add(receive(request, signal), range?.length)
  }

  async function finish(
    exchange: Exchange,
    page: Page,
    upload: Upload,
    digest: ReturnType<typeof parseDigest>,
  ) {
    const { signal } = exchange
    const { size, repository: name } = upload
    await upload.finish(digest, async (chunks) => {
      await manager.ingest({ digest, size, chunks, signal })
      holding.add(digest)
      await repository.putLink(name, digest, size, signal)
    })
    created(exchange, page, digest)
  }

  return async (exchange, route) => {
    const { page, ref } = route
    const { method } = exchange.request
    if (route.type === 'uploads') {
      if (method === 'POST') return begin(exchange, route)
      throw refusal(405, 'UNSUPPORTED', 'an upload begins with POST', { Allow: 'POST' })
    }
    const upload = uploads.get(ref.repository, route.id)
    switch (method) {
      case 'GET':
      case 'HEAD':
        exchange.begin(204, progress(page, upload))
        exchange.response.end()
        return
      case 'PATCH':
        await append(exchange, page, upload)
        return accepted(exchange, page, upload)
      case 'PUT': {
        const digest = parseDigest(page.query.get('digest') ?? '')
        await append(exchange, page, upload)
        return finish(exchange, page, upload, digest)
      }
      case 'DELETE':
        await upload.remove()
        exchange.begin(204, {})
        exchange.response.end()
        return
      default:
        throw refusal(405, 'UNSUPPORTED', 'an upload knows no such method', {
          Allow: 'GET, PATCH, PUT, DELETE',
        })
    }
  }
}

function nsOf(page: Page): string {
  return page.ns === undefined ? '' : `?ns=${encodeURIComponent(page.ns)}`
}
