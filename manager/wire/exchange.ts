import type { Log } from '../../base/index.ts'
import type { Exchange, ExchangeTotals, PeerId } from '../types.ts'
import { HEADER, MAX_CHUNK } from './blockframes.ts'
import { type Bucket, createBucket } from './bucket.ts'
import { createExchangeClient } from './exchange-client.ts'
import { createExchangeServer } from './exchange-server.ts'
import { openStream, type WireNode } from './streams.ts'
import type { Provide } from './uploads.ts'

export const BLOCKS_PROTOCOL = '/shoal/blocks/1'

/** Streams that a peer may open to us over one connection; more are reset. */
const MAX_INBOUND = 16
/** Of what a peer may queue here, how much we ask of it: all nodes have the same bound, and being told BUSY is no use. */
const ASKED_SHARE = 0.75

export interface ExchangeLimits {
  /** Bytes a second, sent to all peers; undefined: no limit. */
  uploadRate?: number | undefined
  /** Bytes a second, asked of all peers; undefined: no limit. */
  downloadRate?: number | undefined
  /** Blocks of full size loaded for sending at once, for all peers. Default 4. */
  maxUploads?: number
  /** Requests of one peer that may wait or be under way here; past it the answer is BUSY. Default 64. */
  maxQueued?: number
  /** Streams to one peer. Default 1. */
  streams?: number
  /** Largest piece of a block, in bytes. Default 128 KiB. */
  chunk?: number
}

export interface OpenExchange extends Exchange {
  /** Changes the limits of both directions; undefined lifts one. */
  setRates(rates: { uploadRate: number | undefined; downloadRate: number | undefined }): void
  stats(): {
    /** Requests of peers: waiting, and loaded or loading with the bytes they hold. */
    uploads: { queued: number; loaded: number; loadedBytes: number; streams: number }
    /** Requests of ours. */
    downloads: { requests: number; streams: number }
  }
}

/**
 * Blocks between the peers of `node`. `provide` gives the verified bytes of a block of this node's store, in `into` (from its
 * start) where that is given and it likes to, and throws BLOCK_MISSING or BLOCK_CORRUPT; it must not touch `into` once it
 * has settled. The wire format is in README.md.
 */
export async function createExchange(deps: {
  node: WireNode
  provide: Provide
  limits?: ExchangeLimits
  /** What may be received: shared with whatever else comes in over the same link. Default: one of its own. */
  download?: Bucket
  log: Log
}): Promise<OpenExchange> {
  const { node, provide, limits = {}, log } = deps
  const { maxUploads = 4, maxQueued = 64, streams = 1, chunk = 128 * 1024 - HEADER } = limits
  const upload = createBucket({ rate: limits.uploadRate })
  const download = deps.download ?? createBucket({ rate: limits.downloadRate })
  const all: ExchangeTotals = { sent: 0, received: 0 }
  const byPeer = new Map<PeerId, ExchangeTotals>()
  const accused = new Set<PeerId>()
  let closed = false

  function countFor(peer: PeerId): ExchangeTotals {
    let counted = byPeer.get(peer)
    if (!counted) {
      counted = { sent: 0, received: 0 }
      byPeer.set(peer, counted)
    }
    return counted
  }

  function onBad(peer: PeerId, error: unknown): void {
    if (accused.has(peer)) return
    accused.add(peer)
    log.warn({ peer, error: String(error) }, 'the peer broke the block exchange protocol')
  }

  const client = createExchangeClient({
    open: (peer) => openStream(node, peer, BLOCKS_PROTOCOL),
    streams,
    maxAsked: Math.ceil(maxQueued * ASKED_SHARE),
    bucket: download,
    onBad,
    onReceived(peer, bytes) {
      all.received += bytes
      countFor(peer).received += bytes
    },
  })
  const server = createExchangeServer({
    provide,
    limits: { maxUploads, maxQueued, chunk: Math.min(chunk, MAX_CHUNK) },
    bucket: upload,
    log,
    onBad,
    onSent(peer, bytes) {
      all.sent += bytes
      countFor(peer).sent += bytes
    },
  })

  await node.handle(
    BLOCKS_PROTOCOL,
    (stream, connection) => server.accept(stream, connection.remotePeer.toString()),
    { maxInboundStreams: MAX_INBOUND },
  )

  return {
    fetch: client.fetch,
    totals: (peer) => ({ ...(peer === undefined ? all : (byPeer.get(peer) ?? { sent: 0, received: 0 })) }),
    setRates({ uploadRate, downloadRate }) {
      upload.setRate(uploadRate)
      download.setRate(downloadRate)
    },
    stats: () => ({ uploads: server.stats(), downloads: client.stats() }),
    async close() {
      if (closed) return
      closed = true
      await node.unhandle(BLOCKS_PROTOCOL)
      client.close()
      await server.close()
      upload.close()
      download.close()
    },
  }
}
