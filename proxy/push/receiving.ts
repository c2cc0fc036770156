import type { IncomingMessage } from 'node:http'
import { ShoalError } from '../../base/index.ts'
import { refusal } from '../registry/failure.ts'

/** A client that sends nothing for so long is gone. */
const STALL_MS = 60_000

/** A request's body under back-pressure. @throws ABORTED when the client goes away, TIMEOUT when it stalls */
export async function* receive(request: IncomingMessage, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { socket } = request
  const onStall = (): void =>
    void request.destroy(new ShoalError('TIMEOUT', `nothing came for ${STALL_MS / 1000} s`))
  const onAbort = (): void => void request.destroy(signal.reason)
  socket.setTimeout(STALL_MS, onStall)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    // Whoever stops reading still wants to answer: that must not end the connection.
    for await (const chunk of request.iterator({ destroyOnReturn: false })) yield chunk as Buffer
    if (!request.complete) throw new ShoalError('ABORTED', 'the client went away')
  } catch (error) {
    if (error instanceof ShoalError) throw error
    throw new ShoalError('ABORTED', 'the client went away', { cause: error })
  } finally {
    signal.removeEventListener('abort', onAbort)
    socket.setTimeout(0)
    socket.off('timeout', onStall)
  }
}

/** All of a small body. @throws 413 */
export async function receiveAll(
  request: IncomingMessage,
  limit: number,
  signal: AbortSignal,
): Promise<Buffer> {
  const tooLarge = refusal(413, 'SIZE_INVALID', `a manifest of more than ${limit} bytes is refused`)
  if ((lengthOf(request) ?? 0) > limit) throw tooLarge
  const parts: Uint8Array[] = []
  let size = 0
  for await (const chunk of receive(request, signal)) {
    size += chunk.byteLength
    if (size > limit) throw tooLarge
    parts.push(chunk)
  }
  return Buffer.concat(parts, size)
}

/** Content-Length, where there is one. */
export function lengthOf(request: IncomingMessage): number | undefined {
  const text = request.headers['content-length']
  return text === undefined ? undefined : Number(text)
}

/** What a chunk's Content-Range says, in the distribution spec's form `START-END` or HTTP's. @throws BLOB_UPLOAD_INVALID */
export function contentRange(request: IncomingMessage): { start: number; length: number } | undefined {
  const text = request.headers['content-range']
  if (text === undefined) return undefined
  const match = /^(?:bytes[ =])?(\d{1,15})-(\d{1,15})(?:\/(?:\d+|\*))?$/.exec(text.trim())
  const [start, end] = [Number(match?.[1]), Number(match?.[2])]
  if (match && end >= start) return { start, length: end - start + 1 }
  throw refusal(400, 'BLOB_UPLOAD_INVALID', `not a Content-Range of a chunk: ${text.slice(0, 80)}`)
}
