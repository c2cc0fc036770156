import type { MultiaddrConnection, Transport, Upgrader } from '@libp2p/interface'
import { serviceCapabilities, transportSymbol } from '@libp2p/interface'
import { isShoalError, ShoalError } from '../../base/index.ts'
import { type Doorkeeper, KNOCK_LENGTH, KNOCK_MS, knockBytes } from './doorkeeper.ts'
import { readExactly } from './exact.ts'

/**
 * Wraps a libp2p transport so that a dialer must prove the cluster key before the listener sends a single byte. A knock
 * that is wrong, short or late ends the connection.
 */
export function knockingTransport<C>(options: {
  inner: (components: C) => Transport
  clusterKey: Uint8Array
  doorkeeper: Doorkeeper
}): (components: C) => Transport {
  const { clusterKey, doorkeeper } = options

  const admit = async (connection: MultiaddrConnection): Promise<void> => {
    const seat = doorkeeper.enter(hostOf(connection))
    try {
      const signal = AbortSignal.any([seat.signal, AbortSignal.timeout(KNOCK_MS)])
      const knock = await readExactly(connection, KNOCK_LENGTH, signal)
      if (!doorkeeper.admits(knock)) throw new ShoalError('DENIED', 'not admitted')
    } catch (error) {
      connection.abort(
        isShoalError(error) ? error : new ShoalError('DENIED', 'not admitted', { cause: error }),
      )
      throw error
    } finally {
      seat.leave()
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
      [serviceCapabilities]: ['@libp2p/transport'],
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
