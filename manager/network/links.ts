import type { Connection, PeerId as LibPeerId, Libp2p } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { type Multiaddr, multiaddr } from '@multiformats/multiaddr'
import { type Log, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../types.ts'
import type { Activity } from './activity.ts'

/** Between the dials of one target's addresses, as in RFC 8305: a dead one must not hold up a good one. */
const STAGGER_MS = 250
/** Of the connections to keep when there are too many; libp2p's tags go up to 100. */
const TAG = { 'shoal-member': { value: 100 } }

/** What membership needs of the network below the RPC; `createLinks` is the real one, tests have a virtual one. */
export interface Links {
  connected(id: PeerId): boolean
  /**
   * A connection to the member at any of the addresses, to be found in `peer` or, without it, to whoever answers. An existing
   * one will do.
   *
   * @throws PEER_GONE when nobody answers or somebody else does, LOOP when the address is this node's own, ABORTED
   */
  connect(target: { peer?: PeerId; addrs: string[] }, signal: AbortSignal): Promise<PeerId>
  /** Keeps the addresses for later dials, by others as well, and the connections from being pruned. */
  remember(id: PeerId, addrs: string[]): void
  forget(id: PeerId): void
  /** Ends all connections to the peer at once. */
  drop(id: PeerId): void
  /** When the last byte came from the peer, by membership's clock; -Infinity for never. */
  heardAt(id: PeerId): number
  /** Called when the last connection to a peer has ended. Returns the unsubscriber. */
  onClose(listener: (id: PeerId) => void): () => void
}

/** The links of a real node. `close` ends its listening to the node. */
export function createLinks(options: {
  node: Libp2p
  activity: Activity
  log: Log
}): Links & { close(): void } {
  const { node, activity, log } = options
  const self = node.peerId.toString()
  const ids = new Map<PeerId, LibPeerId>()
  const dials = new Map<PeerId, Promise<PeerId>>()
  const ownAddresses = new Set<string>()
  const listeners = new Set<(id: PeerId) => void>()

  /** Undefined for what is no peer ID: it came from another node. */
  const parse = (id: PeerId): LibPeerId | undefined => {
    const known = ids.get(id)
    if (known !== undefined) return known
    try {
      const made = peerIdFromString(id)
      ids.set(id, made)
      return made
    } catch {
      return undefined
    }
  }

  const connectionsTo = (id: PeerId): Connection[] => {
    const parsed = parse(id)
    return parsed === undefined ? [] : node.getConnections(parsed)
  }

  const isConnected = (id: PeerId): boolean => connectionsTo(id).some(({ status }) => status === 'open')

  const onDisconnect = ({ detail }: CustomEvent<LibPeerId>): void => {
    const id = detail.toString()
    for (const listener of [...listeners]) listener(id)
  }
  node.addEventListener('peer:disconnect', onDisconnect)

  /** Whoever answers there. The peer ID is left out on purpose: libp2p would dial one peer's addresses in turn. */
  const dialOne = async (address: string, signal: AbortSignal): Promise<PeerId> => {
    if (ownAddresses.has(address)) throw new ShoalError('LOOP', `${address} is this node`)
    try {
      const connection = await node.dial(multiaddr(withoutPeer(address)), { signal })
      return connection.remotePeer.toString()
    } catch (error) {
      if (error instanceof Error && error.name === 'InvalidPeerIdError') {
        ownAddresses.add(address)
        throw new ShoalError('LOOP', `${address} is this node`, { cause: error })
      }
      throw error
    }
  }

  const dialAny = async (addrs: string[], peer: PeerId | undefined, outer: AbortSignal): Promise<PeerId> => {
    const won = new AbortController()
    const signal = AbortSignal.any([won.signal, outer])
    const attempts = addrs.map(async (address, index) => {
      if (index > 0) await pause(index * STAGGER_MS, signal)
      const found = await dialOne(address, signal)
      if (peer !== undefined && found !== peer)
        throw new ShoalError('PEER_GONE', `${address} is ${found} now`)
      return found
    })
    try {
      return await Promise.any(attempts)
    } catch (error) {
      throw failure(error, peer, addrs)
    } finally {
      won.abort()
    }
  }

  const connect = (peer: PeerId | undefined, addrs: string[], signal: AbortSignal): Promise<PeerId> => {
    if (peer === undefined) return dialAny(addrs, peer, signal)
    if (isConnected(peer)) return Promise.resolve(peer)
    const running = dials.get(peer)
    if (running !== undefined) return running
    const dial = dialAny(addrs, peer, signal).finally(() => dials.delete(peer))
    dials.set(peer, dial)
    return dial
  }

  const quietly = (what: string, id: PeerId, work: Promise<unknown>): void => {
    work.catch((error) => log.debug({ peer: id, err: error }, what))
  }

  return {
    connected: isConnected,
    async connect({ peer, addrs }, signal) {
      if (peer === self) throw new ShoalError('LOOP', 'the peer is this node')
      return await connect(peer, addrs, signal)
    },
    remember(id, addrs) {
      const parsed = parse(id)
      if (parsed === undefined) return
      quietly(
        'addresses not kept',
        id,
        node.peerStore.patch(parsed, { multiaddrs: addrs.flatMap(valid), tags: TAG }),
      )
    },
    forget(id) {
      const parsed = parse(id)
      if (parsed !== undefined) quietly('addresses not removed', id, node.peerStore.delete(parsed))
      ids.delete(id)
      activity.forget(id)
    },
    drop(id) {
      for (const connection of connectionsTo(id)) {
        connection.abort(new ShoalError('PEER_GONE', 'the member is gone'))
      }
    },
    heardAt: (id) => activity.heardAt(id),
    onClose(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    close: () => node.removeEventListener('peer:disconnect', onDisconnect),
  }
}

/** Addresses come from other nodes, perhaps of other versions. */
function valid(address: string): Multiaddr[] {
  try {
    return [multiaddr(address)]
  } catch {
    return []
  }
}

function withoutPeer(address: string): string {
  const at = address.indexOf('/p2p/')
  return at < 0 ? address : address.slice(0, at)
}

/** Of several failures the one that says most: that all led to this node, or else that nobody was there. */
function failure(error: unknown, peer: PeerId | undefined, addrs: string[]): ShoalError {
  const causes: unknown[] = error instanceof AggregateError ? error.errors : [error]
  const loops = causes.filter((cause) => cause instanceof ShoalError && cause.code === 'LOOP')
  if (loops.length > 0 && loops.length === causes.length) return loops[0] as ShoalError
  const reasons = causes.map((cause) => (cause instanceof Error ? cause.message : String(cause)))
  return new ShoalError('PEER_GONE', `no connection to ${peer ?? addrs.join(', ')}`, {
    cause: error,
    details: { reasons },
  })
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
}
