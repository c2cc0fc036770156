import type { Stream } from '@libp2p/interface'
import { ShoalError } from '../../base/index.ts'
import { hashOfCid } from '../../blockstore/index.ts'
import type { Exchange, PeerId } from '../types.ts'
import { MAX_BLOCK } from './blockframes.ts'
import type { Bucket } from './bucket.ts'
import { createDownloadLink, type DownloadLink } from './download-link.ts'
import { abortError } from './streams.ts'
import { createGate } from './turns.ts'

/** The streams to one peer. */
interface Source {
  links: DownloadLink[]
  opening: Promise<DownloadLink> | undefined
}

/** The asking half of the block exchange, for all peers. */
export function createExchangeClient(deps: {
  open: (peer: PeerId) => Promise<Stream>
  /** Streams to one peer; the next one is opened when all others are in use. */
  streams: number
  /** Requests to one peer at the same time; more wait here, where a cancelled one costs the peer nothing. */
  maxAsked: number
  bucket: Bucket
  onReceived: (peer: PeerId, bytes: number) => void
  onBad: (peer: PeerId, error: unknown) => void
}) {
  const { open, streams, maxAsked, bucket, onReceived, onBad } = deps
  const sources = new Map<PeerId, Source>()
  /** Ends each fetch under way. */
  const active = new Set<(error: unknown) => void>()
  const gate = createGate(maxAsked)
  let closed = false

  async function establish(peer: PeerId, source: Source): Promise<DownloadLink> {
    const stream = await open(peer)
    const link = createDownloadLink({
      stream,
      onReceived: (bytes) => onReceived(peer, bytes),
      onBad: (error) => onBad(peer, error),
      onClose() {
        source.links = source.links.filter((one) => one !== link)
        if (source.links.length === 0 && !source.opening) sources.delete(peer)
      },
    })
    source.links.push(link)
    return link
  }

  function linkTo(peer: PeerId): DownloadLink | Promise<DownloadLink> {
    let source = sources.get(peer)
    if (!source) {
      source = { links: [], opening: undefined }
      sources.set(peer, source)
    }
    let least: DownloadLink | undefined
    for (const link of source.links) if (!least || link.outstanding < least.outstanding) least = link
    if (!source.opening && source.links.length < streams && (!least || least.outstanding > 0)) {
      const made = source
      const opening = establish(peer, made)
      source.opening = opening
      opening
        .catch(() => {})
        .finally(() => {
          made.opening = undefined
          if (made.links.length === 0 && sources.get(peer) === made) sources.delete(peer)
        })
    }
    // A busy stream that is open beats a free one that is not.
    return least ?? (source.opening as Promise<DownloadLink>)
  }

  /** See `Exchange`. */
  const fetch: Exchange['fetch'] = async (peer, cid, options) => {
    const { length, priority, signal, stallMs, into, onBytes } = options
    if (!Number.isSafeInteger(length) || length <= 0 || length > MAX_BLOCK) {
      throw new ShoalError('RANGE_INVALID', `a block of ${length} bytes cannot be asked for`)
    }
    const hash = hashOfCid(cid)
    if (signal.aborted) throw abortError(signal)
    if (closed) throw new ShoalError('ABORTED', 'closing')

    const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
    let cancel = (): void => {}
    let timer: NodeJS.Timeout | undefined
    let settled = false
    const giveUp = (error: unknown): void => {
      settled = true
      cancel()
      reject(error)
    }
    const onAbort = (): void => giveUp(abortError(signal))

    const targetOf = (give: () => Buffer): Buffer => {
      const target = give()
      if (target.length >= length) return target
      giveUp(new ShoalError('RANGE_INVALID', 'the target is shorter than the block'))
      return Buffer.allocUnsafeSlow(length)
    }

    const start = (link: DownloadLink): void => {
      if (settled) return
      cancel = link.ask({
        length,
        priority,
        hash,
        into: into && (() => targetOf(into)),
        onBytes(count) {
          timer?.refresh()
          try {
            onBytes?.(count)
          } catch (error) {
            // The caller's own trouble must not cost the others on the stream theirs.
            giveUp(error)
          }
        },
        onWhole: resolve,
        onError: reject,
      })
    }
    const ask = (): void => {
      if (settled) return
      timer = setTimeout(() => {
        giveUp(new ShoalError('TIMEOUT', `nothing came from ${peer} for ${stallMs} ms`))
      }, stallMs)
      // Nothing may be thrown here: it would hit whoever made room for us.
      try {
        const link = linkTo(peer)
        // Without a tick in between where the stream is open: what is asked for together goes out together.
        if (link instanceof Promise) link.then(start).catch(reject)
        else start(link)
      } catch (error) {
        reject(error)
      }
    }
    const enter = (): void => gate.enter(peer, priority, ask)

    signal.addEventListener('abort', onAbort, { once: true })
    active.add(giveUp)
    try {
      if (bucket.take(length, priority, enter)) enter()
      return await promise
    } finally {
      settled = true
      bucket.withdraw(enter)
      gate.leave(peer, ask)
      clearTimeout(timer)
      active.delete(giveUp)
      signal.removeEventListener('abort', onAbort)
    }
  }

  return {
    fetch,
    stats() {
      let requests = 0
      let open = 0
      for (const { links } of sources.values()) {
        open += links.length
        for (const link of links) requests += link.requests
      }
      return { requests, streams: open }
    },
    close(): void {
      const error = new ShoalError('ABORTED', 'closing')
      closed = true
      for (const giveUp of [...active]) giveUp(error)
      for (const { links } of [...sources.values()]) for (const link of [...links]) link.close(error)
    },
  }
}
