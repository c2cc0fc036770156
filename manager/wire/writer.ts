import type { Stream } from '@libp2p/interface'

export interface Writer {
  /** Queues a frame. False, and nothing queued, when `maxQueued` would be passed or the stream is closed. */
  push(frame: Uint8Array): boolean
  /** The source has something again. */
  wake(): void
  /** Bytes that wait here and in the stream. */
  readonly queued: number
}

/**
 * Sends frames over a libp2p stream as fast as the connection takes them and no faster. Pushed frames go first and in order;
 * when there are none, `source` is asked for the next one, so that what to send is decided at the last moment.
 *
 * A frame is handed to the stream only while that asks for no drain. `drain` is no promise of room: it also comes when the
 * muxer's window opens while the socket is still full. The stream then flushes its own remainder in a microtask that was
 * queued before ours and raises the flag again, so at most one frame a `drain` is in excess. `onDrain()` is of no use here,
 * it never waits a second time.
 */
export function createWriter(deps: {
  stream: Stream
  maxQueued: number
  source?: () => Uint8Array | undefined
}): Writer {
  const { stream, maxQueued, source } = deps
  let queue: Uint8Array[] = []
  let head = 0
  let waiting = 0
  let flushing = false

  function pop(): Uint8Array | undefined {
    const frame = queue[head]
    if (frame === undefined) return undefined
    head++
    waiting -= frame.length
    if (head === queue.length) {
      queue = []
      head = 0
    } else if (head === 1024) {
      queue = queue.slice(head)
      head = 0
    }
    return frame
  }

  function flush(): void {
    // Sending can raise `drain` from within; a source may push.
    if (flushing) return
    flushing = true
    try {
      while (stream.writeStatus === 'writable' && !stream.writableNeedsDrain) {
        const frame = pop() ?? source?.()
        if (frame === undefined) return
        stream.send(frame)
      }
    } catch (error) {
      // The stream closed under us, or the muxer failed: both end it, and its owner hears `close`.
      stream.abort(error instanceof Error ? error : new Error(String(error)))
    } finally {
      flushing = false
    }
  }

  stream.addEventListener('drain', () => queueMicrotask(flush))
  stream.addEventListener('close', () => {
    queue = []
    head = 0
    waiting = 0
  })

  return {
    push(frame) {
      if (stream.writeStatus !== 'writable') return false
      if (waiting + stream.writeBufferLength + frame.length > maxQueued) return false
      queue.push(frame)
      waiting += frame.length
      flush()
      return true
    },
    wake: flush,
    get queued() {
      return waiting + stream.writeBufferLength
    },
  }
}
