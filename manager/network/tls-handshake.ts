import type { KeyObject } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect, createSecureContext, type SecureContext, TLSSocket } from 'node:tls'
import { publicKeyFromRaw } from '@libp2p/crypto/keys'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { ShoalError } from '../../base/index.ts'
import { selfSignedCertificate } from './certificate.ts'
import { PROOF_LENGTH, proof, proofHolds } from './proof.ts'

export interface SecuredSocket {
  socket: TLSSocket
  peer: PeerId
}

/** TLS 1.3 between two holders of the cluster key, who learn each other's peer ID. */
export interface Handshake {
  /**
   * @throws DENIED when the other has no fit certificate or no cluster key, PEER_GONE when it ends the connection, or what
   * `signal` aborts with. The socket is the caller's to destroy then.
   */
  dial(raw: Socket, signal: AbortSignal): Promise<SecuredSocket>
  accept(raw: Socket, signal: AbortSignal): Promise<SecuredSocket>
}

type Role = 'dialer' | 'listener'

const EVENTS = ['readable', 'end', 'close', 'error']

/**
 * The certificates are self-signed by the nodes' Ed25519 identities, so TLS itself proves the peer ID. Then, before anything else
 * is spoken, both ends prove the cluster key by an HMAC over their role, both peer IDs and a secret of this very TLS
 * session (RFC 8446, 7.5): it can neither be relayed nor sent back. The dialer goes first: a stranger who gets this far,
 * with a knock that it overheard, is shown nothing made with the key.
 */
export function createHandshake(options: {
  key: KeyObject
  self: PeerId
  clusterKey: Uint8Array
}): Handshake {
  const { key, self, clusterKey } = options
  const secureContext = createSecureContext({
    key: key.export({ format: 'pem', type: 'pkcs8' }),
    cert: selfSignedCertificate(key),
    minVersion: 'TLSv1.3',
    sigalgs: 'ed25519',
    ecdhCurve: 'X25519',
    ciphers: 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256',
  })

  const claim = (socket: TLSSocket, role: Role, from: PeerId, to: PeerId): Buffer => {
    const session = socket.exportKeyingMaterial(32, 'EXPORTER-shoal-bind', Buffer.alloc(0))
    // The NULs keep the variable IDs apart: base58 has none.
    return proof(clusterKey, 'shoal-bind', role, '\0', from.toString(), '\0', to.toString(), '\0', session)
  }

  const bind = async (socket: TLSSocket, peer: PeerId, role: Role): Promise<void> => {
    const mine = claim(socket, role, self, peer)
    const theirs = claim(socket, role === 'dialer' ? 'listener' : 'dialer', peer, self)
    if (role === 'dialer') socket.write(mine)
    if (!proofHolds(theirs, await readBytes(socket, PROOF_LENGTH))) {
      throw new ShoalError('DENIED', 'the peer holds another cluster key')
    }
    if (role === 'listener') socket.write(mine)
  }

  const run = async (
    socket: TLSSocket,
    role: Role,
    event: string,
    signal: AbortSignal,
  ): Promise<SecuredSocket> => {
    // An abort fails whatever is being waited for.
    const onAbort = (): void => void socket.destroy(asError(signal.reason))
    signal.addEventListener('abort', onAbort)
    try {
      signal.throwIfAborted()
      await untilEvent(socket, event)
      const peer = peerOf(socket)
      await bind(socket, peer, role)
      return { socket, peer }
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  return {
    dial: (raw, signal) =>
      run(connect({ socket: raw, ...clientOptions(secureContext) }), 'dialer', 'secureConnect', signal),
    accept: (raw, signal) =>
      run(new TLSSocket(raw, serverOptions(secureContext)), 'listener', 'secure', signal),
  }
}

// Certificates prove possession of a key and nothing else, so there is no authority to check them with.
function clientOptions(secureContext: SecureContext) {
  return { secureContext, rejectUnauthorized: false, checkServerIdentity: () => undefined }
}

function serverOptions(secureContext: SecureContext) {
  return { secureContext, isServer: true, requestCert: true, rejectUnauthorized: false }
}

function peerOf(socket: TLSSocket): PeerId {
  const key = socket.getPeerX509Certificate()?.publicKey
  const { x } = key?.asymmetricKeyType === 'ed25519' ? key.export({ format: 'jwk' }) : {}
  if (x === undefined) throw new ShoalError('DENIED', 'the peer shows no Ed25519 certificate')
  return peerIdFromPublicKey(publicKeyFromRaw(Buffer.from(x, 'base64url')))
}

async function untilEvent(socket: Socket, event: string): Promise<void> {
  const stop = new AbortController()
  const closed = new ShoalError('PEER_GONE', 'the peer ended the connection')
  socket.once('close', () => stop.abort(closed))
  try {
    // Rejects with the socket's error where there is one.
    await once(socket, event, { signal: stop.signal })
  } catch (error) {
    throw stop.signal.aborted ? (socket.errored ?? closed) : error
  }
}

/**
 * The socket's next `count` bytes; what is behind them stays in the socket.
 *
 * @throws PEER_GONE when it ends before, or the socket's error
 */
export function readBytes(socket: Socket, count: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    // One listener throughout: adding one anew makes the socket tell of what it has again, without end.
    const attempt = (): void => {
      const bytes: Buffer | null = socket.read(count)
      const over = socket.readableEnded || socket.destroyed
      // At the end of a stream less than was asked for is returned.
      if (bytes?.length === count) resolve(bytes)
      else if (over) reject(socket.errored ?? new ShoalError('PEER_GONE', 'the peer ended the connection'))
      else return
      for (const event of EVENTS) socket.off(event, attempt)
    }
    for (const event of EVENTS) socket.on(event, attempt)
    attempt()
  })
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new ShoalError('ABORTED', 'aborted', { cause: reason })
}
