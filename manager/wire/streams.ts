import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { isShoalError, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../types.ts'

/** What the wire needs of a libp2p node. All its connections are to admitted peers. */
export type WireNode = Pick<Libp2p, 'handle' | 'unhandle' | 'getConnections' | 'dial'>

/** An opening is shared by those who wait for it, so none of their signals bounds it. */
const OPEN_MS = 10_000
/** libp2p resets what goes over its default limits without a word. */
const MAX_OUTBOUND = 32

/**
 * A new stream to the peer, over the connection there is or a new one where libp2p knows an address.
 * @throws ShoalError PEER_GONE
 */
export async function openStream(node: WireNode, peer: PeerId, protocol: string): Promise<Stream> {
  const signal = AbortSignal.timeout(OPEN_MS)
  try {
    const id = peerIdFromString(peer)
    const connection: Connection =
      node.getConnections(id).find(({ status }) => status === 'open') ?? (await node.dial(id, { signal }))
    return await connection.newStream([protocol], { signal, maxOutboundStreams: MAX_OUTBOUND })
  } catch (error) {
    throw new ShoalError('PEER_GONE', `no stream to ${peer}`, { cause: error })
  }
}

/** What `signal` aborted with, as ours: a time-out stays one, everything else is ABORTED. */
export function abortError(signal: AbortSignal): ShoalError {
  const { reason } = signal
  if (isShoalError(reason)) return reason
  const late = reason instanceof DOMException && reason.name === 'TimeoutError'
  return new ShoalError(late ? 'TIMEOUT' : 'ABORTED', late ? 'timed out' : 'aborted', { cause: reason })
}

/** Waits for `promise` no longer than until `signal` aborts. @throws ShoalError ABORTED | TIMEOUT */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return await promise
  if (signal.aborted) throw abortError(signal)
  let stop = (): void => {}
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(abortError(signal))
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
