import { randomBytes } from 'node:crypto'
import type { MultiaddrConnection, Transport, Upgrader } from '@libp2p/interface'
import { serviceCapabilities, transportSymbol } from '@libp2p/interface'
import { isShoalError, ShoalError } from '../../base/index.ts'
import { readExactly } from './exact.ts'
import { createLobby } from './lobby.ts'
import { PROOF_LENGTH, proof, proofHolds } from './proof.ts'

const NONCE_LENGTH = 32
const REMEMBERED = 4096

/** The first bytes of every connection, from the dialer: a nonce and the proof over it. */
export function knockBytes(clusterKey: Uint8Array): Buffer {
  const nonce = randomBytes(NONCE_LENGTH)
  return Buffer.concat([nonce, proof(clusterKey, 'shoal-knock', nonce)])
}

/**
 * Wraps a transport so that a dialer must prove the cluster key before the listener sends a single byte. A knock that
 * is wrong, short or late ends the connection, and so does one that was heard before. (A knock overheard on the wire
 * and replayed at a node that has not heard it gets as far as the encrypted handshake; the binding stops it there.)
 */
export function knockingTransport<C>(options: {
  inner: (components: C) => Transport
  clusterKey: Uint8Array
  /** Connections waiting for their knock; past it the oldest of the busiest host goes. */
  maxPending: number
  /** ms until the knock must be complete; default 3000. */
  timeoutMs?: number
}): (components: C) => Transport {
  const { clusterKey, maxPending, timeoutMs = 3000 } = options
  const lobby = createLobby({ capacity: maxPending })
  const heard = new Set<string>()

  const admit = async (connection: MultiaddrConnection): Promise<void> => {
    const eviction = lobby.enter(hostOf(connection))
    try {
      const signal = AbortSignal.any([eviction.signal, AbortSignal.timeout(timeoutMs)])
      const knock = await readExactly(connection, NONCE_LENGTH + PROOF_LENGTH, signal)
      const nonce = knock.subarray(0, NONCE_LENGTH)
      const key = Buffer.from(nonce).toString('latin1')
      if (
        !proofHolds(proof(clusterKey, 'shoal-knock', nonce), knock.subarray(NONCE_LENGTH)) ||
        heard.has(key)
      ) {
        throw new ShoalError('DENIED', 'not admitted')
      }
      heard.add(key)
      if (heard.size > REMEMBERED) heard.delete(heard.values().next().value ?? '')
    } catch (error) {
      connection.abort(
        isShoalError(error) ? error : new ShoalError('DENIED', 'not admitted', { cause: error }),
      )
      throw error
    } finally {
      eviction.leave()
    }
  }

  const wrap = (upgrader: Upgrader): Upgrader => ({
    async upgradeInbound(
      connection: MultiaddrConnection,
      upgradeOptions: Parameters<Upgrader['upgradeInbound']>[1],
    ) {
      await admit(connection)
      await upgrader.upgradeInbound(connection, upgradeOptions)
    },
    async upgradeOutbound(
      connection: MultiaddrConnection,
      upgradeOptions: Parameters<Upgrader['upgradeOutbound']>[1],
    ) {
      connection.send(knockBytes(clusterKey))
      return await upgrader.upgradeOutbound(connection, upgradeOptions)
    },
    createInboundAbortSignal: (signal) => upgrader.createInboundAbortSignal(signal),
    getStreamMuxers: () => upgrader.getStreamMuxers(),
    getConnectionEncrypters: () => upgrader.getConnectionEncrypters(),
  })

  return (components) => {
    const inner = options.inner(components)
    return {
      [transportSymbol]: true,
      [Symbol.toStringTag]: 'shoal-knocking-transport',
      ...{ [serviceCapabilities]: ['@libp2p/transport'] },
      dial: (address, dialOptions) =>
        inner.dial(address, { ...dialOptions, upgrader: wrap(dialOptions.upgrader) }),
      createListener: (listenOptions) =>
        inner.createListener({ ...listenOptions, upgrader: wrap(listenOptions.upgrader) }),
      listenFilter: (addresses) => inner.listenFilter(addresses),
      dialFilter: (addresses) => inner.dialFilter(addresses),
    }
  }
}

function hostOf(connection: MultiaddrConnection): string {
  const [host] = connection.remoteAddr.getComponents()
  return host?.value ?? ''
}
