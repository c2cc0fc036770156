import { yamux } from '@chainsafe/libp2p-yamux'
import type { MessageStream, StreamMuxer, StreamMuxerFactory } from '@libp2p/interface'

const MIB = 1024 * 1024

/** What a yamux stream keeps of its receive window. Not in yamux's types, so it is looked at with care. */
interface WindowedStream {
  recvWindow: number
  recvWindowCapacity: number
  /** 3 is Established. */
  state: number
  sendWindowUpdate(): void
}

interface StreamMaker {
  _newStream(...args: unknown[]): object
}

const ESTABLISHED = 3

/** Yamux, set up for long-lived connections that carry blocks and many small requests side by side. */
export function createMuxer(): () => StreamMuxerFactory {
  const make = yamux({
    // Its pings measure the round-trip time, without which windows never grow beyond their first 256 KiB.
    enableKeepAlive: true,
    keepAliveInterval: 60_000,
    maxInboundStreams: 4096,
    maxOutboundStreams: 4096,
    // Streams opened right after dialling, before the other end has its listeners in place.
    maxEarlyStreams: 1024,
    // A window beyond the read buffer makes correct pausing reset the stream.
    streamOptions: { maxStreamWindowSize: 4 * MIB, maxReadBufferLength: 4 * MIB },
  })
  return () => {
    const inner = make()
    return {
      protocol: inner.protocol,
      createStreamMuxer: (connection: MessageStream) => thrifty(inner.createStreamMuxer(connection)),
    }
  }
}

/**
 * Yamux answers every data frame with a window update, a packet each: it doubles the packets of small messages, and wakes the
 * sender for nothing. As in the protocol's original, in Go, half a window is gathered first; at least the other half
 * stays open meanwhile, so nobody waits.
 */
function thrifty(muxer: StreamMuxer): StreamMuxer {
  const maker = muxer as unknown as StreamMaker
  if (typeof maker._newStream !== 'function') return muxer
  const newStream = maker._newStream.bind(muxer)
  maker._newStream = (...args) => {
    const stream = newStream(...args)
    if (isWindowed(stream)) gather(stream)
    return stream
  }
  return muxer
}

function isWindowed(stream: object): stream is WindowedStream {
  const { recvWindow, recvWindowCapacity, state, sendWindowUpdate } = stream as Partial<WindowedStream>
  const numbers = [recvWindow, recvWindowCapacity, state]
  return numbers.every((value) => typeof value === 'number') && typeof sendWindowUpdate === 'function'
}

function gather(stream: WindowedStream): void {
  const update = stream.sendWindowUpdate.bind(stream)
  stream.sendWindowUpdate = () => {
    // Before, updates carry the flags that open the stream.
    if (stream.state === ESTABLISHED && stream.recvWindowCapacity * 2 > stream.recvWindow) return
    update()
  }
}
