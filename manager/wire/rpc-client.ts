import type { Stream } from '@libp2p/interface'
import { type Log, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../types.ts'
import { encodeFrame } from './codec.ts'
import { type Message, readMessages } from './messages.ts'
import { abortError, orAborted } from './streams.ts'
import { createWriter, type Writer } from './writer.ts'

interface Pending {
  resolve(body: unknown): void
  reject(error: ShoalError): void
}

interface Link {
  stream: Stream
  writer: Writer
  pending: Map<number, Pending>
}

export interface RpcClientLimits {
  /** Bytes of one frame. */
  maxFrame: number
  /** Bytes that may wait to be sent to one peer; requests past it fail with BUSY. */
  maxQueued: number
  /** Notes are dropped when more bytes than this wait. */
  maxNoteQueue: number
}

/** Notes that wait for a stream being opened; later ones are dropped. */
const MAX_EARLY_NOTES = 64

/** The asking half of RPC to one peer: one stream, opened when first needed and again after it was lost. */
export function createRpcClient(deps: {
  peer: PeerId
  open: () => Promise<Stream>
  limits: RpcClientLimits
  onBad: (error: unknown) => void
  /** The stream is lost and none is being opened: this client may be forgotten. */
  onIdle: () => void
  log: Log
}) {
  const { peer, open, limits, onBad, onIdle, log } = deps
  let link: Link | undefined
  let opening: Promise<Link> | undefined
  let nextId = 1
  let earlyNotes = 0

  function onMessage(pending: Map<number, Pending>, message: Message): void {
    if (message.kind !== 'answer' && message.kind !== 'refusal') {
      throw new ShoalError('PROTOCOL', `a ${message.kind} where only answers belong`)
    }
    if (message.id >= nextId) throw new ShoalError('PROTOCOL', 'an answer to nothing that was asked')
    // Undefined: given up already.
    const waiter = pending.get(message.id)
    if (message.kind === 'answer') waiter?.resolve(message.body)
    else waiter?.reject(message.error)
  }

  async function establish(): Promise<Link> {
    const stream = await open()
    const pending = new Map<number, Pending>()
    const made: Link = { stream, pending, writer: createWriter({ stream, maxQueued: limits.maxQueued }) }
    stream.addEventListener('close', ({ error }) => {
      if (link === made) link = undefined
      const gone = new ShoalError('PEER_GONE', `the stream to ${peer} closed`, { cause: error })
      for (const waiter of [...pending.values()]) waiter.reject(gone)
      if (!link && !opening) onIdle()
    })
    readMessages({ stream, maxFrame: limits.maxFrame, onBad, onMessage: (m) => onMessage(pending, m) })
    if (stream.writeStatus !== 'writable') throw new ShoalError('PEER_GONE', `the stream to ${peer} closed`)
    link = made
    return made
  }

  function connect(): Promise<Link> {
    opening ??= establish().finally(() => {
      opening = undefined
    })
    return opening
  }

  async function exchange(frame: Buffer, id: number, signal: AbortSignal | undefined): Promise<unknown> {
    const { writer, pending } = link ?? (await orAborted(connect(), signal))
    if (!writer.push(frame)) {
      throw new ShoalError(writer.queued > 0 ? 'BUSY' : 'PEER_GONE', `${peer} takes no more requests`)
    }
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    pending.set(id, { resolve, reject })
    try {
      return await orAborted(promise, signal)
    } catch (error) {
      if (signal?.aborted) writer.push(encodeFrame({ id, abort: true }))
      throw error
    } finally {
      pending.delete(id)
    }
  }

  return {
    async request(
      method: string,
      body: unknown,
      options: { signal?: AbortSignal; timeoutMs: number },
    ): Promise<unknown> {
      const { signal, timeoutMs } = options
      if (signal?.aborted) throw abortError(signal)
      const id = nextId++
      const frame = encodeFrame({ id, method, body })
      if (frame.length > limits.maxFrame) {
        throw new ShoalError('PROTOCOL', `${method}: ${frame.length} bytes are too much for a request`)
      }
      // Cheaper than AbortSignal.timeout and AbortSignal.any, and it frees the timer at once.
      const stop = new AbortController()
      const onAbort = (): void => stop.abort(signal?.reason)
      signal?.addEventListener('abort', onAbort, { once: true })
      const timer = setTimeout(() => {
        stop.abort(new ShoalError('TIMEOUT', `${peer} did not answer ${method} within ${timeoutMs} ms`))
      }, timeoutMs)
      try {
        return await exchange(frame, id, stop.signal)
      } finally {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
      }
    },

    notify(method: string, body: unknown): void {
      const note = ({ writer }: Link): void => {
        if (writer.queued <= limits.maxNoteQueue) writer.push(encodeFrame({ method, body }))
      }
      if (link) {
        note(link)
      } else if (earlyNotes < MAX_EARLY_NOTES) {
        earlyNotes++
        connect()
          .then(note)
          .catch((error) => log.debug({ peer, method, error: String(error) }, 'note not sent'))
          .finally(() => {
            earlyNotes--
          })
      }
    },

    close(): void {
      link?.stream.abort(new ShoalError('ABORTED', 'closing'))
    },
  }
}

export type RpcClient = ReturnType<typeof createRpcClient>
