import type { Stream } from '@libp2p/interface'
import { type ErrorCode, ShoalError } from '../../base/index.ts'
import { decodeValue } from './codec.ts'
import { createFrameParser } from './frames.ts'

/** What comes over an RPC stream. */
export type Message =
  | { kind: 'request'; id: number; method: string; body: unknown }
  | { kind: 'note'; method: string; body: unknown }
  | { kind: 'abort'; id: number }
  | { kind: 'answer'; id: number; body: unknown }
  | { kind: 'refusal'; id: number; error: ShoalError }

const CODE = /^[A-Z][A-Z_]{0,31}$/
const MAX_TEXT = 4096

function bad(what: string): never {
  throw new ShoalError('PROTOCOL', `malformed message: ${what}`)
}

function readError(value: unknown): ShoalError {
  if (typeof value !== 'object' || value === null) bad('error')
  const { code, message } = value as { code?: unknown; message?: unknown }
  if (typeof code !== 'string' || !CODE.test(code) || typeof message !== 'string') bad('error')
  // Codes are stable over versions; one that this node does not know is still better kept than changed.
  return new ShoalError(code as ErrorCode, message.slice(0, MAX_TEXT), { details: { remote: true } })
}

/** @throws ShoalError PROTOCOL */
export function readMessage(bytes: Uint8Array): Message {
  const value = decodeValue(bytes)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) bad('not a map')
  const map = value as Record<string, unknown>
  const { id, method, body } = map
  if (id !== undefined && !(Number.isSafeInteger(id) && (id as number) >= 0)) bad('id')
  if (method !== undefined) {
    if (typeof method !== 'string' || method.length > 64) bad('method')
    return id === undefined
      ? { kind: 'note', method, body }
      : { kind: 'request', id: id as number, method, body }
  }
  if (id === undefined) bad('neither id nor method')
  if (map.abort === true) return { kind: 'abort', id: id as number }
  if (map.error !== undefined) return { kind: 'refusal', id: id as number, error: readError(map.error) }
  if ('ok' in map) return { kind: 'answer', id: id as number, body: map.ok }
  return bad('no content')
}

/**
 * Hands each message of the stream to `onMessage`, in order. A malformed or oversize frame, or a throw of `onMessage`, ends
 * the stream after `onBad`.
 */
export function readMessages(deps: {
  stream: Stream
  maxFrame: number
  onMessage: (message: Message) => void
  onBad: (error: unknown) => void
}): void {
  const { stream, maxFrame, onMessage, onBad } = deps
  let parts: Uint8Array[] = []
  let length = 0
  let broken = false

  const parser = createFrameParser({
    headerLength: 4,
    onHeader(header) {
      length = header.readUInt32BE()
      if (length === 0 || length > maxFrame) {
        throw new ShoalError('PROTOCOL', `a frame of ${length} bytes, at most ${maxFrame} are allowed`)
      }
      return length
    },
    onBody(part, _offset, last) {
      if (!last) {
        parts.push(part)
        return
      }
      // Gathered as it comes and not allocated by the announced length: memory follows what was really sent.
      const body = parts.length === 0 ? part : Buffer.concat([...parts, part], length)
      parts = []
      onMessage(readMessage(body))
    },
  })

  stream.addEventListener('message', ({ data }) => {
    if (broken) return
    try {
      parser.push(data)
    } catch (error) {
      broken = true
      parts = []
      onBad(error)
      stream.abort(error instanceof Error ? error : new Error(String(error)))
    }
  })
  // The other end is done with the stream: it is of no use half open.
  stream.addEventListener('remoteCloseWrite', () =>
    stream.abort(new ShoalError('PEER_GONE', 'the peer is done')),
  )
}
