import type { Stream } from '@libp2p/interface'
import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { PeerId, RpcHandler } from '../types.ts'
import { encodeFrame } from './codec.ts'
import { type Message, readMessages } from './messages.ts'
import { createWriter } from './writer.ts'

export interface RpcServerLimits {
  maxFrame: number
  /** Bytes of answers that may wait for one peer to read them; past it its stream is closed. */
  maxAnswers: number
  /** Handlers that run at the same time for one peer. */
  maxHandlers: number
}

/** The answering half of RPC, for all peers. */
export function createRpcServer(deps: {
  limits: RpcServerLimits
  onBad: (peer: PeerId, error: unknown) => void
  log: Log
}) {
  const { limits, onBad, log } = deps
  const handlers = new Map<string, RpcHandler>()
  /** Handlers running for each peer, over all its streams. */
  const running = new Map<PeerId, number>()
  const streams = new Set<Stream>()

  function describe(error: unknown, peer: PeerId, method: string): { code: string; message: string } {
    if (isShoalError(error)) return { code: error.code, message: error.message }
    log.error({ peer, method, error: String(error) }, 'handling a request failed')
    return { code: 'INTERNAL', message: `${method} failed` }
  }

  function accept(stream: Stream, peer: PeerId): void {
    const requests = new Map<number, AbortController>()
    const ended = new AbortController()
    const writer = createWriter({ stream, maxQueued: limits.maxAnswers })
    streams.add(stream)

    function reply(frame: Buffer): void {
      if (writer.push(frame) || stream.writeStatus !== 'writable') return
      const error = new ShoalError('PROTOCOL', 'the peer asks and does not read the answers')
      onBad(peer, error)
      stream.abort(error)
    }

    async function run(method: string, body: unknown, signal: AbortSignal): Promise<unknown> {
      const handler = handlers.get(method)
      if (!handler) throw new ShoalError('PROTOCOL', `no such method: ${method}`)
      running.set(peer, (running.get(peer) ?? 0) + 1)
      try {
        return await handler(peer, body, signal)
      } finally {
        const left = (running.get(peer) ?? 1) - 1
        if (left > 0) running.set(peer, left)
        else running.delete(peer)
      }
    }

    async function answer(id: number, method: string, body: unknown): Promise<void> {
      const abort = new AbortController()
      requests.set(id, abort)
      let frame: Buffer
      try {
        const ok = await run(method, body, abort.signal)
        frame = encodeFrame({ id, ok })
        if (frame.length > limits.maxFrame) throw new Error(`an answer of ${frame.length} bytes is too long`)
      } catch (error) {
        if (abort.signal.aborted) return
        frame = encodeFrame({ id, error: describe(error, peer, method) })
      } finally {
        requests.delete(id)
      }
      if (!abort.signal.aborted) reply(frame)
    }

    function onMessage(message: Message): void {
      const busy = (running.get(peer) ?? 0) >= limits.maxHandlers
      switch (message.kind) {
        case 'request':
          if (requests.has(message.id)) throw new ShoalError('PROTOCOL', 'an id that is in use')
          if (busy) {
            const error = { code: 'BUSY', message: 'too many requests at once' }
            reply(encodeFrame({ id: message.id, error }))
          } else {
            void answer(message.id, message.method, message.body)
          }
          return
        case 'note':
          if (!busy) {
            run(message.method, message.body, ended.signal).catch((error) => {
              if (!ended.signal.aborted) describe(error, peer, message.method)
            })
          }
          return
        case 'abort':
          requests.get(message.id)?.abort(new ShoalError('ABORTED', 'the peer gave up'))
          return
        default:
          throw new ShoalError('PROTOCOL', `a ${message.kind} where only requests belong`)
      }
    }

    stream.addEventListener('close', () => {
      streams.delete(stream)
      const gone = new ShoalError('PEER_GONE', 'the peer is gone')
      ended.abort(gone)
      for (const abort of requests.values()) abort.abort(gone)
    })
    readMessages({ stream, maxFrame: limits.maxFrame, onMessage, onBad: (error) => onBad(peer, error) })
  }

  return {
    accept,
    handle(method: string, handler: RpcHandler): void {
      if (handlers.has(method)) throw new Error(`${method} is handled already`)
      handlers.set(method, handler)
    },
    close(): void {
      for (const stream of [...streams]) stream.abort(new ShoalError('ABORTED', 'closing'))
    },
  }
}
