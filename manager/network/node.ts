import { createPrivateKey, type KeyObject } from 'node:crypto'
import type { Libp2p, PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { createLibp2p } from 'libp2p'
import { ShoalError } from '../../base/index.ts'
import { bindingEncrypter } from './bind.ts'
import { createDoorkeeper, type Doorkeeper } from './doorkeeper.ts'
import { knockingTransport } from './knock.ts'
import { createMuxer } from './muxer.ts'
import { proof } from './proof.ts'
import { quietLogger } from './quiet.ts'
import { createHandshake } from './tls-handshake.ts'
import { BACKLOG, createTlsTransport, SOCKET } from './tls-transport.ts'

/** How connections are encrypted; nodes of one cluster must agree. */
export type EncrypterName = 'tls' | 'noise'

export interface NodeOptions {
  /** Ed25519; the peer ID follows from it. */
  privateKey: PrivateKey
  /** 32 bytes from `loadClusterKey`. Peers with another key see only closed connections. */
  clusterKey: Uint8Array
  /** TCP multiaddrs, `/tcp/0` for any free port; none: dials only. */
  listen: string[]
  encrypter?: EncrypterName
  /** Connections that have not proved the cluster key yet; past it the oldest one goes. Default 256. */
  maxPending?: number
  maxConnections?: number
  /** Asked once for each admitted connection, for a function that is called whenever bytes come from the peer. */
  track?: (peer: string) => () => void
  /**
   * Announces this node on the LAN, and finds others, which come up as `peer:discovery` events. Peer ID and addresses
   * are there for everybody to read.
   */
  mdns?: boolean
}

/**
 * A started libp2p node whose connections are all admitted by the cluster key. It speaks no protocol of its own: no
 * identify, no ping; `handle` and `dialProtocol` are the way to add one. The caller stops it.
 *
 * @throws whatever listening throws, e.g. EADDRINUSE
 */
export async function createNode(options: NodeOptions): Promise<Libp2p> {
  const {
    privateKey,
    clusterKey,
    listen,
    encrypter = 'tls',
    maxPending = 256,
    maxConnections = 2000,
    track = () => () => {},
  } = options
  const doorkeeper = createDoorkeeper({ clusterKey, maxPending })
  return await createLibp2p({
    privateKey,
    logger: quietLogger(),
    addresses: { listen },
    ...(encrypter === 'noise'
      ? await noiseOptions({ clusterKey, doorkeeper, track })
      : tlsOptions({ privateKey, clusterKey, doorkeeper, track })),
    streamMuxers: [createMuxer()],
    peerDiscovery: options.mdns === true ? [await loadMdns(clusterKey)] : [],
    // It aborts busy connections on one late ping.
    connectionMonitor: { enabled: false },
    connectionManager: {
      maxConnections,
      // These count admitted peers only; strangers are bounded before, by the knock.
      inboundConnectionThreshold: 10_000,
      maxIncomingPendingConnections: 1024,
      maxParallelDials: 64,
      maxDialQueueLength: 2000,
      dialTimeout: 10_000,
      addressDialTimeout: 4_000,
      inboundUpgradeTimeout: 10_000,
      connectionCloseTimeout: 500,
      // Membership redials by itself and without end.
      reconnectRetries: 0,
    },
  })
}

/** The tag keeps clusters on one LAN apart; it is derived from the key and says nothing about it. */
async function loadMdns(clusterKey: Uint8Array) {
  const { mdns } = await import('@libp2p/mdns')
  const tag = proof(clusterKey, 'shoal-mdns').toString('hex').slice(0, 12)
  return mdns({ serviceTag: `_shoal-${tag}._udp.local` })
}

interface Admission {
  clusterKey: Uint8Array
  doorkeeper: Doorkeeper
  track: (peer: string) => () => void
}

function tlsOptions({ privateKey, clusterKey, doorkeeper, track }: Admission & { privateKey: PrivateKey }) {
  const handshake = createHandshake({
    key: keyObjectOf(privateKey),
    self: peerIdFromPrivateKey(privateKey),
    clusterKey,
  })
  return { transports: [createTlsTransport({ handshake, doorkeeper, clusterKey, track })] }
}

/** Libp2p's own TCP and noise, with admission around them. Loaded only when asked for: it costs several MiB. */
async function noiseOptions({ clusterKey, doorkeeper, track }: Admission) {
  const [{ tcp }, { noise }] = await Promise.all([import('@libp2p/tcp'), import('@chainsafe/libp2p-noise')])
  const inner = tcp({
    // Zero is none: membership decides who is gone, and an idle link of two minutes is normal between sites.
    inboundSocketInactivityTimeout: 0,
    outboundSocketInactivityTimeout: 0,
    backlog: BACKLOG,
    dialOpts: SOCKET,
    listenOpts: SOCKET,
  })
  return {
    transports: [knockingTransport({ inner, clusterKey, doorkeeper })],
    connectionEncrypters: [bindingEncrypter({ inner: noise(), clusterKey, track })],
  }
}

function keyObjectOf(privateKey: PrivateKey): KeyObject {
  if (privateKey.type !== 'Ed25519') throw new ShoalError('CONFIG', 'the identity is not an Ed25519 key')
  const [d, x] = [privateKey.raw.subarray(0, 32), privateKey.raw.subarray(32)]
  const jwk = { kty: 'OKP', crv: 'Ed25519', d: base64url(d), x: base64url(x) }
  return createPrivateKey({ key: jwk, format: 'jwk' })
}

function base64url(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64url')
}
