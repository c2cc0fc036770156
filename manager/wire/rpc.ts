import { type Log, ShoalError } from '../../base/index.ts'
import type { PeerId, Rpc } from '../types.ts'
import { createRpcClient, type RpcClient, type RpcClientLimits } from './rpc-client.ts'
import { createRpcServer, type RpcServerLimits } from './rpc-server.ts'
import { openStream, type WireNode } from './streams.ts'

export const RPC_PROTOCOL = '/shoal/rpc/1'

const MIB = 1024 * 1024
/** A peer needs one; a second one can overlap while the first is dying. */
const MAX_INBOUND = 4

export type RpcLimits = RpcClientLimits & RpcServerLimits

const DEFAULTS: RpcLimits = {
  maxFrame: 4 * MIB,
  maxQueued: 8 * MIB,
  maxNoteQueue: 256 * 1024,
  maxAnswers: 8 * MIB,
  maxHandlers: 64,
}

export interface OpenRpc extends Rpc {
  /** Stops answering, and ends every request under way with PEER_GONE. */
  close(): Promise<void>
}

/**
 * Requests and notes between the peers of `node`: CBOR frames over one long-lived stream a peer and direction. Connections
 * are used as they are, or dialled where libp2p knows an address. The wire format is in README.md.
 */
export async function createRpc(deps: {
  node: WireNode
  log: Log
  limits?: Partial<RpcLimits>
}): Promise<OpenRpc> {
  const { node, log } = deps
  const limits = { ...DEFAULTS, ...deps.limits }
  const clients = new Map<PeerId, RpcClient>()
  const accused = new Set<PeerId>()
  let closed = false

  function onBad(peer: PeerId, error: unknown): void {
    if (accused.has(peer)) return
    accused.add(peer)
    log.warn({ peer, error: String(error) }, 'the peer broke the RPC protocol')
  }

  const server = createRpcServer({ limits, onBad, log })

  function client(peer: PeerId): RpcClient {
    if (closed) throw new ShoalError('ABORTED', 'closing')
    let known = clients.get(peer)
    if (!known) {
      known = createRpcClient({
        peer,
        open: () => openStream(node, peer, RPC_PROTOCOL),
        limits,
        onBad: (error) => onBad(peer, error),
        onIdle: () => clients.delete(peer),
        log,
      })
      clients.set(peer, known)
    }
    return known
  }

  await node.handle(
    RPC_PROTOCOL,
    (stream, connection) => server.accept(stream, connection.remotePeer.toString()),
    { maxInboundStreams: MAX_INBOUND },
  )

  return {
    async request(peer, method, body, options) {
      return await client(peer).request(method, body, options)
    },
    notify(peer, method, body) {
      try {
        client(peer).notify(method, body)
      } catch (error) {
        log.debug({ peer, method, error: String(error) }, 'note not sent')
      }
    },
    handle: server.handle,
    async close() {
      if (closed) return
      closed = true
      await node.unhandle(RPC_PROTOCOL)
      server.close()
      for (const one of clients.values()) one.close()
    },
  }
}
