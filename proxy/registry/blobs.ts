import type { Digest } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Manager, OpenBlob } from '../../manager/types.ts'
import type { Head, Upstream } from '../types.ts'
import type { Ask, AskHead } from './ask.ts'
import { sendBody } from './body.ts'
import { type Exchange, sourceOf } from './exchange.ts'
import { isOutage } from './failure.ts'
import type { Gate } from './gate.ts'
import { guarded } from './manifests.ts'
import { cleanMediaType } from './media.ts'
import { LOCAL_HOST } from './names.ts'
import { chooseRange, ifRange, noneMatch } from './ranges.ts'

/** Answers GET and HEAD of a blob. */
export type ServeBlob = (exchange: Exchange, ask: Ask, digest: Digest) => Promise<void>

export function createServeBlob(parts: {
  manager: Manager
  store: BlockStore
  upstream: Upstream
  head: AskHead
  gate: Gate
}): ServeBlob {
  const { manager, store, upstream, head, gate } = parts

  const open = (ask: Ask, digest: Digest, found: Head | undefined): Promise<OpenBlob> =>
    manager.open({
      digest,
      // The cluster's own word; an upstream's comes with the bytes.
      ...(ask.ref.host === LOCAL_HOST && found?.size !== undefined ? { size: found.size } : {}),
      origin: upstream.origin(ask.ref, 'blobs', digest, ask.credential, ask.via),
      priority: 'client',
      signal: ask.signal,
    })

  /** A blob's size and type without its bytes: from the disk, else from upstream, else from neighbours. */
  async function describe(
    ask: Ask,
    digest: Digest,
  ): Promise<{ size: number | undefined; mediaType: string | undefined; here: boolean }> {
    const found = await gate.admit(ask, 'blobs', digest)
    const blob = await store.blob(digest)
    if (blob?.complete && blob.size !== undefined) {
      return { size: blob.size, mediaType: blob.mediaType, here: true }
    }
    if (found?.size !== undefined) return { size: found.size, mediaType: found.mediaType, here: false }
    try {
      return { ...(await head(ask, 'blobs', digest)), here: false }
    } catch (error) {
      if (!isOutage(error) || ask.signal.aborted) throw error
      const opened = await open(ask, digest, found)
      opened.close()
      return { size: opened.size, mediaType: opened.mediaType, here: false }
    }
  }

  async function serve(exchange: Exchange, ask: Ask, digest: Digest): Promise<void> {
    const etag = `"${digest}"`
    const { headers } = exchange.request
    const common = { 'Docker-Content-Digest': digest, ETag: etag, 'Accept-Ranges': 'bytes' }
    if (noneMatch(headers['if-none-match'], etag)) {
      await gate.admit(ask, 'blobs', digest)
      exchange.begin(304, common)
      exchange.response.end()
      return
    }
    if (exchange.head) {
      const { size, mediaType, here } = await describe(ask, digest)
      exchange.begin(200, {
        ...common,
        'Content-Type': cleanMediaType(mediaType) ?? 'application/octet-stream',
        ...(size === undefined ? {} : { 'Content-Length': size }),
        'X-Shoal-Source': here ? 'local' : 'upstream',
      })
      exchange.response.end()
      return
    }
    const close = (blob: OpenBlob): void => blob.close()
    const blob = await guarded(gate, ask, 'blobs', digest, (inner, said) => open(inner, digest, said), close)
    exchange.facts.sources = () => blob.sources()
    // Reading tells of failures.
    blob.done.catch(() => {})
    try {
      await streamBlob(exchange, blob, common)
    } finally {
      blob.close()
    }
  }

  return serve
}

/** Streams an open blob to the client: whole, or the range that was asked for. `common`: headers that go with each answer. */
export async function streamBlob(
  exchange: Exchange,
  blob: OpenBlob,
  common: Record<string, string>,
): Promise<void> {
  const { signal, request } = exchange
  const { size } = blob
  const asked = ifRange(request.headers['if-range']?.toString(), common.ETag ?? '')
    ? request.headers.range
    : undefined
  // Of what has no end yet nobody can say where a part of it lies: then everything comes.
  const range = size === undefined ? 'all' : chooseRange(asked, size)
  if (range === 'unsatisfiable') {
    exchange.reply(416, { ...common, 'Content-Range': `bytes */${size}` }, Buffer.alloc(0))
    return
  }
  const whole = range === 'all'
  const { start, end } = whole ? { start: 0, end: size } : range
  const length = end === undefined ? undefined : end - start
  const chunks = blob.read({ start, end }, signal)[Symbol.asyncIterator]()
  const begin = (): void =>
    exchange.begin(whole ? 200 : 206, {
      ...common,
      'Content-Type': cleanMediaType(blob.mediaType) ?? 'application/octet-stream',
      ...(length === undefined ? {} : { 'Content-Length': length }),
      ...(whole ? {} : { 'Content-Range': `bytes ${start}-${start + (length ?? 0) - 1}/${size}` }),
      'X-Shoal-Source': sourceOf(blob.sources()),
    })
  try {
    // Headers wait for the first bytes: until then a failure can be told properly. But an open blob is on its way, and a
    // thin uplink may need longer than a client's patience for the first block: no reason to send the client away.
    exchange.whenLate = () => {
      begin()
      exchange.response.flushHeaders()
    }
    const first = await chunks.next()
    if (!exchange.response.headersSent) begin()
    await sendBody(exchange.response, first, chunks, length, signal, (count) => {
      exchange.facts.bytes += count
    })
  } finally {
    // Not awaited: a read that is stuck ends by its signal, not by this.
    chunks.return?.()?.catch(() => {})
  }
}
