import type { TLSSocket } from 'node:tls'
import type { AbortOptions, Logger, MessageStreamDirection } from '@libp2p/interface'
import { AbstractMultiaddrConnection, type SendResult } from '@libp2p/utils'
import type { Multiaddr } from '@multiformats/multiaddr'

/**
 * A link that is slower than the CPU brings bulk data in thousands of small reads, each of which costs a turn of the event loop
 * and of everything above it. After so many bytes within the window, reading takes a breath whenever a turn brought little:
 * the kernel gathers meanwhile. A quiet connection, with a request now and then, is read at once.
 */
const BULK_BYTES = 256 * 1024
const WINDOW_MS = 100
const LITTLE = 48 * 1024
const BREATH_MS = 3

/** What libp2p needs of a connection, over a TLS socket that stands on its TCP socket without anything in between. */
export class TlsConnection extends AbstractMultiaddrConnection {
  readonly #socket: TLSSocket
  /** Records of this turn of the event loop: handed on together. */
  #batch: Buffer[] = []
  #isScheduled = false
  #windowBytes = 0
  #windowStart = 0
  #breath: NodeJS.Timeout | undefined
  #isPaused = false

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
      this.#batch.push(bytes)
      if (this.#isScheduled) return
      this.#isScheduled = true
      setImmediate(() => this.#handOn())
    })
    socket.on('drain', () => this.safeDispatchEvent('drain'))
    socket.on('error', (error) => this.abort(error))
    // Neither end keeps half-open connections: the socket closes right after.
    const closed = (): void => {
      clearTimeout(this.#breath)
      this.#handOn()
      this.onTransportClosed()
    }
    socket.once('end', closed)
    socket.once('close', closed)
  }

  #handOn(): void {
    this.#isScheduled = false
    const last = this.#batch.pop()
    if (!last) return
    let size = last.byteLength
    // What is appended here goes up with the last one, in one message.
    for (const bytes of this.#batch) {
      size += bytes.byteLength
      if (this.readStatus === 'readable') this.readBuffer.append(bytes)
    }
    this.#batch = []
    this.#breathe(size)
    this.onData(last)
  }

  #breathe(bytes: number): void {
    const now = performance.now()
    if (now - this.#windowStart > WINDOW_MS) {
      this.#windowStart = now
      this.#windowBytes = 0
    }
    this.#windowBytes += bytes
    if (bytes >= LITTLE || this.#windowBytes < BULK_BYTES || this.#breath) return
    this.#socket.pause()
    this.#breath = setTimeout(() => {
      this.#breath = undefined
      if (!this.#isPaused) this.#socket.resume()
    }, BREATH_MS)
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
    this.#isPaused = true
    this.#socket.pause()
  }

  sendResume(): void {
    this.#isPaused = false
    if (!this.#breath) this.#socket.resume()
  }
}
