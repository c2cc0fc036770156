import type { MessageStream, StreamCloseEvent, StreamMessageEvent } from '@libp2p/interface'
import { ShoalError } from '../../base/index.ts'

/**
 * The stream's next `count` bytes. What came behind them is pushed back, so the next reader of the stream sees it.
 * Holds no more than one message beyond `count`.
 *
 * @throws PEER_GONE when the stream ends before, TIMEOUT when `signal` aborts
 */
export function readExactly(stream: MessageStream, count: number, signal: AbortSignal): Promise<Uint8Array> {
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
  const pieces: Uint8Array[] = []
  let have = 0

  const done = (): void => {
    stream.removeEventListener('message', onMessage)
    stream.removeEventListener('close', onClose)
    signal.removeEventListener('abort', onAbort)
  }
  const onMessage = (event: StreamMessageEvent): void => {
    pieces.push(event.data.subarray())
    have += event.data.byteLength
    if (have < count) return
    done()
    const got = Buffer.concat(pieces, have)
    try {
      if (have > count) stream.unshift(got.subarray(count))
      resolve(got.subarray(0, count))
    } catch (error) {
      reject(new ShoalError('PEER_GONE', 'the stream ended', { cause: error }))
    }
  }
  const onClose = (event: StreamCloseEvent): void => {
    done()
    reject(new ShoalError('PEER_GONE', 'the stream ended', { cause: event.error }))
  }
  const onAbort = (): void => {
    done()
    reject(new ShoalError('TIMEOUT', 'the peer said too little in time', { cause: signal.reason }))
  }

  if (signal.aborted) onAbort()
  else if (stream.status !== 'open' && stream.readBufferLength < count) {
    reject(new ShoalError('PEER_GONE', 'the stream had ended'))
  } else {
    signal.addEventListener('abort', onAbort)
    stream.addEventListener('close', onClose)
    stream.addEventListener('message', onMessage)
  }
  return promise
}
