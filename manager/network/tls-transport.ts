import { type AddressInfo, connect, createServer, isIPv6, type Server, type Socket } from 'node:net'
import {
  type ComponentLogger,
  type CreateListenerOptions,
  type DialTransportOptions,
  type Listener,
  type ListenerEvents,
  type StreamMuxerFactory,
  serviceCapabilities,
  type Transport,
  TypedEventEmitter,
  transportSymbol,
  type Upgrader,
} from '@libp2p/interface'
import { type Multiaddr, multiaddr } from '@multiformats/multiaddr'
import { ShoalError } from '../../base/index.ts'
import { systemInterfaces } from './addresses.ts'
import { type Doorkeeper, KNOCK_LENGTH, KNOCK_MS, knockBytes } from './doorkeeper.ts'
import { TlsConnection } from './tls-connection.ts'
import { type Handshake, readBytes, type SecuredSocket } from './tls-handshake.ts'

const HANDSHAKE_MS = 5000
export const BACKLOG = 1024
/** Half-dead peers that no member probes are found by the kernel. */
export const SOCKET = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 }

export interface TlsTransportOptions {
  handshake: Handshake
  doorkeeper: Doorkeeper
  clusterKey: Uint8Array
  track: (peer: string) => () => void
}

/**
 * A libp2p transport of TCP, admission and TLS in one. Libp2p's own TLS runs over a stream of messages, and so every byte
 * passes JavaScript twice; here Node's TLS stands on the TCP socket itself.
 */
export function createTlsTransport(
  options: TlsTransportOptions,
): (components: { logger: ComponentLogger }) => Transport {
  const { handshake, clusterKey } = options
  return ({ logger }) => {
    const connectionLog = logger.forComponent('shoal:tls')

    const wrap = (secured: SecuredSocket, remoteAddr: Multiaddr, direction: 'inbound' | 'outbound') =>
      new TlsConnection({
        socket: secured.socket,
        remoteAddr,
        direction,
        log: connectionLog,
        onBytes: options.track(secured.peer.toString()),
      })

    const transport: Transport & { [serviceCapabilities]: string[] } = {
      [transportSymbol]: true,
      [Symbol.toStringTag]: 'shoal-tls',
      [serviceCapabilities]: ['@libp2p/transport'],

      async dial(address: Multiaddr, dialOptions: DialTransportOptions) {
        const { signal, upgrader } = dialOptions
        const { host, port, peer } = targetOf(address)
        const raw = await openSocket(host, port, signal)
        try {
          raw.write(knockBytes(clusterKey))
          const secured = await handshake.dial(raw, signal)
          if (peer !== undefined && secured.peer.toString() !== peer) {
            throw new ShoalError('PEER_GONE', `${address} is ${secured.peer} now`)
          }
          const connection = wrap(secured, address, 'outbound')
          return await upgrader.upgradeOutbound(connection, { ...upgrade(upgrader, secured), signal })
        } catch (error) {
          raw.destroy()
          throw error
        }
      },

      createListener: ({ upgrader }: CreateListenerOptions) =>
        new TlsListener(options, upgrader, (secured, remote) => wrap(secured, remote, 'inbound')),
      listenFilter: (addresses) => addresses.filter(isTcp),
      dialFilter: (addresses) => addresses.filter(isTcp),
    }
    return transport
  }
}

class TlsListener extends TypedEventEmitter<ListenerEvents> implements Listener {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #stop = new AbortController()
  #asked: Multiaddr | undefined

  constructor(
    options: TlsTransportOptions,
    upgrader: Upgrader,
    wrap: (secured: SecuredSocket, remoteAddr: Multiaddr) => TlsConnection,
  ) {
    super()
    const { handshake, doorkeeper } = options

    const admit = async (raw: Socket): Promise<void> => {
      const seat = doorkeeper.enter(raw.remoteAddress ?? '')
      const evict = (): void => void raw.destroy()
      const timer = setTimeout(evict, KNOCK_MS)
      seat.signal.addEventListener('abort', evict)
      try {
        if (!doorkeeper.admits(await readBytes(raw, KNOCK_LENGTH)))
          throw new ShoalError('DENIED', 'not admitted')
      } finally {
        clearTimeout(timer)
        seat.leave()
      }
    }

    const receive = async (raw: Socket): Promise<void> => {
      await admit(raw)
      const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(HANDSHAKE_MS)])
      const remote = addressOf(raw.remoteAddress, raw.remotePort)
      const secured = await handshake.accept(raw, signal)
      await upgrader.upgradeInbound(wrap(secured, remote), { ...upgrade(upgrader, secured), signal })
    }

    // Nothing is read before somebody asks for it: the first reader takes the knock, the second is TLS.
    this.#server = createServer(SOCKET, (raw) => {
      this.#sockets.add(raw)
      raw.once('close', () => this.#sockets.delete(raw))
      // Whatever goes wrong, the other side sees the connection's end and nothing else.
      raw.on('error', () => {})
      receive(raw).catch(() => raw.destroy())
    })
    this.#server.on('listening', () => this.safeDispatchEvent('listening'))
    this.#server.on('error', (error) => this.safeDispatchEvent('error', { detail: error }))
    this.#server.on('close', () => this.safeDispatchEvent('close'))
  }

  async listen(address: Multiaddr): Promise<void> {
    const { host, port } = targetOf(address)
    this.#asked = address
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen({ host, port, backlog: BACKLOG, ipv6Only: host.includes(':') }, () => {
        this.#server.off('error', reject)
        resolve()
      })
    })
  }

  getAddrs(): Multiaddr[] {
    const bound = this.#server.address() as AddressInfo | null
    if (bound === null || this.#asked === undefined) return []
    const wildcard = bound.address === '0.0.0.0' || bound.address === '::'
    if (!wildcard) return [addressOf(bound.address, bound.port)]
    const family = bound.address === '::' ? 'ip6' : 'ip4'
    const own = systemInterfaces().filter((entry) => entry.family === family)
    return own.map(({ address }) => addressOf(address, bound.port))
  }

  updateAnnounceAddrs(): void {}

  async close(): Promise<void> {
    this.#stop.abort(new ShoalError('ABORTED', 'closing'))
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}

/** The connection is encrypted and its peer known; there is one muxer, so nothing is left to negotiate. */
function upgrade(upgrader: Upgrader, { peer }: SecuredSocket) {
  const [muxerFactory] = upgrader.getStreamMuxers().values()
  return {
    skipEncryption: true as const,
    skipProtection: true,
    remotePeer: peer,
    muxerFactory: muxerFactory as StreamMuxerFactory,
  }
}

async function openSocket(host: string, port: number, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted()
  const socket = connect({ host, port, ...SOCKET })
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const onAbort = (): void => reject(signal.reason)
  socket.once('connect', resolve)
  // Stays: an error after a failed handshake has nobody else to go to.
  socket.on('error', reject)
  signal.addEventListener('abort', onAbort)
  try {
    await promise
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function isTcp(address: Multiaddr): boolean {
  const [host, tcp, ...rest] = address.getComponents().map(({ name }) => name)
  return /^(ip4|ip6|dns|dns4|dns6)$/.test(host ?? '') && tcp === 'tcp' && rest.every((name) => name === 'p2p')
}

function targetOf(address: Multiaddr): { host: string; port: number; peer: string | undefined } {
  const [host, tcp, peer] = address.getComponents()
  return { host: host?.value ?? '', port: Number(tcp?.value), peer: peer?.value }
}

function addressOf(host = '0.0.0.0', port = 0): Multiaddr {
  // IPv4 on a socket for both families.
  const plain = host.startsWith('::ffff:') ? host.slice('::ffff:'.length) : host
  return multiaddr(`/${isIPv6(plain) ? 'ip6' : 'ip4'}/${plain.split('%')[0]}/tcp/${port}`)
}
