import type { ServerResponse } from 'node:http'
import { ShoalError } from '../../base/index.ts'
import { throwIfGone } from './share.ts'

/**
 * Sends an answer's body chunk by chunk. The next chunk is asked for when the kernel has taken the one before, so a slow
 * client holds one chunk and its memory may be used again. `expected` bytes must come, where that is known: less or more
 * throws, and then the connection has to be cut, or the client would take the body as complete.
 */
export async function sendBody(
  response: ServerResponse,
  first: IteratorResult<Uint8Array>,
  rest: AsyncIterator<Uint8Array>,
  expected: number | undefined,
  signal: AbortSignal,
  onBytes: (count: number) => void,
): Promise<void> {
  const write = createWriter(response)
  let sent = 0
  for (let next = first; !next.done; next = await rest.next()) {
    throwIfGone(signal)
    const chunk = next.value
    if (expected !== undefined && sent + chunk.length > expected)
      throw wrongLength(sent + chunk.length, expected)
    await write(chunk)
    sent += chunk.length
    onBytes(chunk.length)
  }
  if (expected !== undefined && sent < expected) throw wrongLength(sent, expected)
  throwIfGone(signal)
  await new Promise<void>((resolve, reject) => {
    response.once('close', () => (response.writableFinished ? resolve() : reject(gone())))
    response.end(resolve)
  })
}

/** A write that settles when the socket took the bytes, or when it is closed: then node may never call back. */
function createWriter(response: ServerResponse): (chunk: Uint8Array) => Promise<void> {
  let settle: ((error?: Error | null) => void) | undefined
  response.once('close', () => settle?.(gone()))
  return (chunk) =>
    new Promise<void>((resolve, reject) => {
      settle = (error) => {
        settle = undefined
        if (error) reject(gone(error))
        else resolve()
      }
      response.write(chunk, (error) => settle?.(error))
    })
}

/** Whatever hinders a write, it is the connection's end. */
function gone(cause?: unknown): ShoalError {
  return new ShoalError('ABORTED', 'the client went away', { cause })
}

function wrongLength(sent: number, expected: number): ShoalError {
  return new ShoalError('INTERNAL', `a body of ${expected} bytes came to ${sent}`)
}
