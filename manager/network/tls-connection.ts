import type { TLSSocket } from 'node:tls'
import type { AbortOptions, Logger, MessageStreamDirection } from '@libp2p/interface'
import { AbstractMultiaddrConnection, type SendResult } from '@libp2p/utils'
import type { Multiaddr } from '@multiformats/multiaddr'

/** What libp2p needs of a connection, over a TLS socket that stands on its TCP socket without anything in between. */
export class TlsConnection extends AbstractMultiaddrConnection {
  readonly #socket: TLSSocket

  constructor(init: {
    socket: TLSSocket
    remoteAddr: Multiaddr
    direction: MessageStreamDirection
    log: Logger
    onBytes: () => void
  }) {
    const { socket, remoteAddr, direction, log, onBytes } = init
    super({ remoteAddr, direction, log })
    this.#socket = socket
    // The handshake was a sign of life.
    onBytes()
    socket.on('data', (bytes: Buffer) => {
      onBytes()
      this.onData(bytes)
    })
    socket.on('drain', () => this.safeDispatchEvent('drain'))
    socket.on('error', (error) => this.abort(error))
    // Neither end keeps half-open connections: the socket closes right after.
    socket.once('end', () => this.onTransportClosed())
    socket.once('close', () => this.onTransportClosed())
  }

  sendData(data: Iterable<Uint8Array> & { byteLength: number }): SendResult {
    const sentBytes = data.byteLength
    let canSendMore = true
    // Header and body of a frame become one record and one packet.
    this.#socket.cork()
    for (const bytes of data) canSendMore = this.#socket.write(bytes)
    this.#socket.uncork()
    return { sentBytes, canSendMore: canSendMore && !this.#socket.writableNeedDrain }
  }

  async sendClose(options?: AbortOptions): Promise<void> {
    const socket = this.#socket
    if (socket.destroyed) return
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const signal = options?.signal
    const onAbort = (): void => reject(signal?.reason)
    socket.once('close', () => resolve())
    signal?.addEventListener('abort', onAbort)
    socket.destroySoon()
    try {
      await promise
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }

  sendReset(): void {
    this.#socket.destroy()
  }

  sendPause(): void {
    this.#socket.pause()
  }

  sendResume(): void {
    this.#socket.resume()
  }
}
