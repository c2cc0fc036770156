import { connect } from 'node:net'

/** Larger than what `node:http` reads at once, and one for the whole body. */
const BUFFER = 256 * 1024
const MAX_HEAD = 64 * 1024

/**
 * GET over HTTP/1.1 that reads a long body at half of the CPU that `node:http` takes for it: many clients share the machine with what is measured.
 * Resolves to false, before any byte was given, where the answer is not a plain 200 with a length: `node:http` is to ask then.
 * @param onBytes valid during the call
 */
export function getBulk(options: {
  url: URL
  headers: Record<string, string>
  stallMs: number
  onBytes: (bytes: Uint8Array) => void
}): Promise<boolean> {
  const { url, headers, stallMs, onBytes } = options
  const { promise, resolve, reject } = Promise.withResolvers<boolean>()
  let head = ''
  let left = -1

  /** The part behind the head, once that is whole. */
  function behindHead(bytes: Buffer): Buffer | undefined {
    head += bytes.toString('latin1')
    const end = head.indexOf('\r\n\r\n')
    if (end < 0 && head.length < MAX_HEAD) return undefined
    const status = /^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]
    const said = /\r\ncontent-length: *(\d+)\r\n/i.exec(head.slice(0, end + 2))?.[1]
    if (status !== '200' || said === undefined) {
      finish(false)
      return undefined
    }
    left = Number(said)
    return bytes.subarray(bytes.length - (head.length - end - 4))
  }

  function finish(result: boolean): void {
    resolve(result)
    socket.destroy()
  }

  const socket = connect({
    host: url.hostname,
    port: Number(url.port || 80),
    onread: {
      buffer: Buffer.allocUnsafeSlow(BUFFER),
      callback(count, buffer) {
        const bytes = Buffer.from(buffer.buffer, buffer.byteOffset, count)
        const body = left < 0 ? behindHead(bytes) : bytes
        if (body === undefined) return left < 0
        left -= body.length
        if (left < 0) {
          socket.destroy(new Error(`${-left} bytes more than were announced`))
          return false
        }
        if (body.length > 0) onBytes(body)
        if (left === 0) finish(true)
        return true
      },
    },
  })
  socket.setTimeout(stallMs, () => socket.destroy(new Error(`nothing came for ${stallMs} ms`)))
  socket.on('error', reject)
  socket.on('close', () => reject(new Error('aborted: the connection closed early')))
  const lines = Object.entries({ Host: url.host, Connection: 'close', ...headers })
  socket.write(
    `GET ${url.pathname}${url.search} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
  )
  return promise
}
