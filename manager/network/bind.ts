import type {
  ConnectionEncrypter,
  MessageStream,
  PeerId,
  SecureConnectionOptions,
  SecuredConnection,
} from '@libp2p/interface'
import { ShoalError } from '../../base/index.ts'
import { readExactly } from './exact.ts'
import { PROOF_LENGTH, proof, proofHolds } from './proof.ts'

type Role = 'dialer' | 'listener'

/**
 * Wraps an encrypter: after its handshake, and before anything else is spoken, both ends prove over the encrypted
 * channel that they hold the cluster key. The proof covers the role and both peer IDs, which the handshake has
 * authenticated, so it cannot be relayed to another connection nor sent back to its sender. The dialer goes first: a
 * stranger who gets this far, say with a knock that it overheard, is shown nothing made with the key.
 */
export function bindingEncrypter<C extends { peerId: PeerId }>(options: {
  inner: (components: C) => ConnectionEncrypter
  clusterKey: Uint8Array
  /** ms for the exchange; default 3000. */
  timeoutMs?: number
  /** Asked once for each admitted connection, for a function that is called whenever bytes come from the peer. */
  track?: (peer: string) => () => void
}): (components: C) => ConnectionEncrypter {
  const { clusterKey, timeoutMs = 3000, track } = options

  const claim = (role: Role, from: PeerId, to: PeerId): Buffer =>
    // The NUL keeps the variable IDs apart: base58 has none.
    proof(clusterKey, 'shoal-bind', role, '\0', from.toString(), '\0', to.toString())

  const bind = async (
    secured: SecuredConnection,
    self: PeerId,
    role: Role,
    outer?: AbortSignal,
  ): Promise<void> => {
    const { connection, remotePeer } = secured
    const timeout = AbortSignal.timeout(timeoutMs)
    const signal = outer === undefined ? timeout : AbortSignal.any([timeout, outer])
    const mine = claim(role, self, remotePeer)
    const theirs = claim(role === 'dialer' ? 'listener' : 'dialer', remotePeer, self)
    try {
      if (role === 'dialer') connection.send(mine)
      if (!proofHolds(theirs, await readExactly(connection, PROOF_LENGTH, signal))) {
        throw new ShoalError('DENIED', 'the peer holds another cluster key')
      }
      if (role === 'listener') connection.send(mine)
    } catch (error) {
      connection.abort(error instanceof Error ? error : new Error('not admitted'))
      throw error
    }
  }

  /** By now the encrypter listens to the stream, so one more listener takes nothing away from it. */
  const watch = (stream: MessageStream, peer: PeerId): void => {
    const onBytes = track?.(peer.toString())
    if (onBytes === undefined) return
    onBytes()
    stream.addEventListener('message', onBytes)
  }

  return (components) => {
    const inner = options.inner(components)
    const self = components.peerId
    return {
      // Capabilities, tag and protocol name are the inner encrypter's.
      ...capabilities(inner),
      protocol: inner.protocol,
      async secureInbound(stream, secureOptions?: SecureConnectionOptions) {
        const secured = await inner.secureInbound(stream, secureOptions)
        await bind(secured, self, 'listener', secureOptions?.signal)
        watch(stream, secured.remotePeer)
        return secured
      },
      async secureOutbound(stream, secureOptions?: SecureConnectionOptions) {
        const secured = await inner.secureOutbound(stream, secureOptions)
        await bind(secured, self, 'dialer', secureOptions?.signal)
        watch(stream, secured.remotePeer)
        return secured
      },
    }
  }
}

/** Libp2p finds what a component offers under symbols. */
function capabilities(inner: ConnectionEncrypter): object {
  const symbols = Object.getOwnPropertySymbols(inner).filter((symbol) => symbol !== Symbol.toStringTag)
  return Object.fromEntries(symbols.map((symbol) => [symbol, Reflect.get(inner, symbol)]))
}
