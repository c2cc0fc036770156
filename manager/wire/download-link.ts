import type { Stream } from '@libp2p/interface'
import { ShoalError } from '../../base/index.ts'
import type { Priority } from '../types.ts'
import { askFrame, cancelFrame, END, FRAME, HEADER, MAX_CHUNK, readHeader } from './blockframes.ts'
import { createFrameParser } from './frames.ts'
import { createWriter } from './writer.ts'

/** A block that was asked for. */
export interface Want {
  length: number
  priority: Priority
  hash: Uint8Array
  into: (() => Buffer) | undefined
  /** A part has arrived. */
  onBytes(count: number): void
  onWhole(block: Buffer): void
  onError(error: ShoalError): void
}

interface Entry {
  want: Want
  target: Buffer | undefined
  received: number
  /** Given up: what still comes is counted and thrown away. */
  given: boolean
}

export interface DownloadLink {
  /** Sends the request. Returns what cancels it; after that none of the want's functions is called. */
  ask(want: Want): () => void
  /** Bytes that were asked for and are not here. */
  readonly outstanding: number
  readonly requests: number
  close(error: ShoalError): void
}

const MAX_CONTROL = 256 * 1024
/** Requests given up that the peer neither finished nor acknowledged. */
const MAX_GIVEN_UP = 256
const MAX_ID = 0xffff_ffff

/**
 * The asking end of one exchange stream. It takes exactly what it asked for: bytes of a known request, in order, and not one
 * more than its block has; anything else ends the stream. So what a peer can make us hold is what we asked of it.
 */
export function createDownloadLink(deps: {
  stream: Stream
  onReceived: (bytes: number) => void
  onBad: (error: unknown) => void
  onClose: () => void
}): DownloadLink {
  const { stream, onReceived, onBad, onClose } = deps
  const entries = new Map<number, Entry>()
  let outstanding = 0
  let lastId = 0
  let givenUp = 0
  let broken = false
  /** Of the DATA frame under way. */
  let current: { id: number; entry: Entry; length: number } | undefined

  function forget(id: number, entry: Entry): void {
    entries.delete(id)
    outstanding -= entry.want.length - entry.received
    if (entry.given) givenUp--
  }

  function onHeader(bytes: Buffer): number {
    const { type, flag, id, length } = readHeader(bytes)
    const entry = entries.get(id)
    if (!entry) throw new ShoalError('PROTOCOL', 'an answer to nothing that was asked')
    if (type === FRAME.DATA && flag === 0 && length > 0 && length <= MAX_CHUNK) {
      if (length > entry.want.length - entry.received) {
        throw new ShoalError('PROTOCOL', 'a longer block than was asked for')
      }
      current = { id, entry, length }
      return length
    }
    if (type !== FRAME.END || length !== 0) throw new ShoalError('PROTOCOL', `a frame of type ${type}`)
    const error = reasonOf(flag, entry.given)
    forget(id, entry)
    if (!entry.given) entry.want.onError(error)
    return 0
  }

  function onBody(part: Uint8Array, _offset: number, last: boolean): void {
    if (!current) return
    const { id, entry, length } = current
    if (!entry.given) {
      // Allocated with the first byte, so that a peer which sends nothing costs nothing.
      entry.target ??= entry.want.into?.() ?? Buffer.allocUnsafeSlow(entry.want.length)
      entry.target.set(part, entry.received)
    }
    entry.received += part.length
    outstanding -= part.length
    onReceived(part.length)
    if (!last) return
    current = undefined
    const whole = entry.received === entry.want.length
    if (whole) forget(id, entry)
    if (!entry.given) entry.want.onBytes(length)
    if (whole && !entry.given && entry.target) entry.want.onWhole(entry.target.subarray(0, entry.received))
  }

  const writer = createWriter({ stream, maxQueued: MAX_CONTROL })
  const parser = createFrameParser({ headerLength: HEADER, onHeader, onBody })

  stream.addEventListener('message', ({ data }) => {
    if (broken) return
    try {
      parser.push(data)
    } catch (error) {
      broken = true
      onBad(error)
      stream.abort(error instanceof Error ? error : new Error(String(error)))
    }
  })
  stream.addEventListener('remoteCloseWrite', () =>
    stream.abort(new ShoalError('PEER_GONE', 'the peer is done')),
  )
  stream.addEventListener('close', ({ error }) =>
    end(new ShoalError('PEER_GONE', 'the stream closed', { cause: error })),
  )

  function end(error: ShoalError): void {
    broken = true
    current = undefined
    onClose()
    const lost = [...entries.values()]
    entries.clear()
    outstanding = 0
    for (const entry of lost) if (!entry.given) entry.want.onError(error)
  }

  function nextId(): number {
    do lastId = lastId >= MAX_ID ? 1 : lastId + 1
    while (entries.has(lastId))
    return lastId
  }

  return {
    ask(want) {
      const id = nextId()
      if (!writer.push(askFrame(id, want.priority, want.length, want.hash))) {
        throw new ShoalError(
          stream.writeStatus === 'writable' ? 'BUSY' : 'PEER_GONE',
          'the peer takes no requests',
        )
      }
      const entry: Entry = { want, target: undefined, received: 0, given: false }
      entries.set(id, entry)
      outstanding += want.length
      return () => {
        if (entries.get(id) !== entry || entry.given) return
        entry.given = true
        entry.target = undefined
        givenUp++
        if (!writer.push(cancelFrame(id)) || givenUp > MAX_GIVEN_UP) {
          stream.abort(new ShoalError('PEER_GONE', 'the peer does not react'))
        }
      }
    },
    get outstanding() {
      return outstanding
    },
    get requests() {
      return entries.size - givenUp
    },
    close(error) {
      end(error)
      stream.abort(error)
    },
  }
}

function reasonOf(flag: number, given: boolean): ShoalError {
  switch (flag) {
    case END.MISSING:
      return new ShoalError('BLOCK_MISSING', 'the peer does not have the block')
    case END.BUSY:
      return new ShoalError('BUSY', 'the peer has too many requests of ours')
    case END.FAILED:
      return new ShoalError('INTERNAL', 'the peer could not read the block')
    case END.CANCELLED:
      if (given) return new ShoalError('ABORTED', 'cancelled')
  }
  throw new ShoalError('PROTOCOL', `an end for reason ${flag}`)
}
