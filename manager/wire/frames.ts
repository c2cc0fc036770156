import type { StreamMessageEvent } from '@libp2p/interface'

/** What libp2p's `message` event carries: one buffer or a list of them. */
export type Incoming = StreamMessageEvent['data']

export interface FrameHandlers {
  /** Bytes of every frame's header. */
  headerLength: number
  /**
   * The header is complete (valid only during the call). Returns how many bytes of body follow; 0 means the frame is over.
   * @throws to refuse the frame
   */
  onHeader(header: Buffer): number
  /** A part of the body in the receive buffer itself: copy what must stay. `last` marks the frame's end. */
  onBody(part: Uint8Array, offset: number, last: boolean): void
}

/**
 * Cuts a byte stream into frames without gathering bodies: they are handed on as they arrive, so the memory of a frame is
 * the receiver's decision. What a handler throws comes out of `push`; the parser must not be used after that.
 */
export function createFrameParser(handlers: FrameHandlers): { push(data: Incoming): void } {
  const { headerLength, onHeader, onBody } = handlers
  const header = Buffer.alloc(headerLength)
  let filled = 0
  let left = 0
  let offset = 0

  function take(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      if (left > 0) {
        const count = Math.min(left, bytes.length - at)
        const part = count === bytes.length ? bytes : bytes.subarray(at, at + count)
        const start = offset
        left -= count
        offset += count
        at += count
        onBody(part, start, left === 0)
      } else {
        // Headers are a few bytes: a loop beats a view and a copy.
        while (filled < headerLength && at < bytes.length) header[filled++] = bytes[at++] as number
        if (filled < headerLength) return
        filled = 0
        offset = 0
        left = onHeader(header)
      }
    }
  }

  return {
    push(data) {
      if (data instanceof Uint8Array) take(data)
      else for (const part of data) take(part)
    },
  }
}
