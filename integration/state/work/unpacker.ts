import { createZstdDecompress, type ZstdDecompress } from 'node:zlib'
import { alone, notAsSaid } from '../form/frames.ts'
import { FRAME } from '../form/limits.ts'
import { openPart } from '../form/seal.ts'

/**
 * Unpacks frames by other threads, as many at once as it has lanes. A lane has one decoder and one buffer for all its frames: with new
 * ones for each, most of the time went into making them and collecting them again.
 */
export interface Unpacker {
  /**
   * `frame` is in use until it resolves; what it resolves to is valid until the next one is asked for in the same lane.
   * @throws PROTOCOL unless it unpacks to exactly so many bytes | DENIED
   */
  unpack(lane: number, frame: Buffer, length: number): Promise<Buffer>
  close(): void
}

export function createUnpacker(options: { lanes: number; key: Uint8Array | undefined }): Unpacker {
  const { key } = options
  const lanes = Array.from({ length: options.lanes }, createLane)
  return {
    async unpack(lane, frame, length) {
      const packed = key ? openPart(key, frame) : frame
      return packed.length === length ? packed : (lanes[lane] as Lane).unpack(alone(packed), length)
    },
    close() {
      for (const lane of lanes) lane.close()
    },
  }
}

type Lane = ReturnType<typeof createLane>

function createLane() {
  let decoder: ZstdDecompress | undefined
  let last: Promise<unknown> = Promise.resolve()
  let take = (_bytes: Buffer): void => {}
  let fail = (): void => {}

  function open(): ZstdDecompress {
    // One byte more: a buffer that is full is replaced by a new one.
    const opened = createZstdDecompress({ chunkSize: FRAME + 1 })
    opened.on('data', (bytes: Buffer) => take(bytes))
    opened.on('error', () => fail())
    // It ends by itself where a frame is followed by what is none.
    opened.on('end', () => fail())
    return opened
  }

  function next(packed: Buffer, wanted: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      decoder ??= open()
      rewind(decoder)
      const parts: Buffer[] = []
      let length = 0
      let isTaken = false
      const end = (): void => {
        if (isTaken && length === wanted)
          resolve(parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts))
      }
      fail = () => reject(notAsSaid())
      take = (bytes) => {
        parts.push(bytes)
        length += bytes.length
        if (length > wanted) decoder?.destroy(notAsSaid())
        else end()
      }
      decoder.write(packed, () => {
        isTaken = true
        end()
        // All that there is comes before this.
        setImmediate(() => length < wanted && reject(notAsSaid()))
      })
    })
  }

  return {
    unpack(packed: Buffer, length: number): Promise<Buffer> {
      const unpacked = last.then(() => next(packed, length))
      last = unpacked.catch(() => {})
      return unpacked
    },
    close(): void {
      decoder?.destroy()
    },
  }
}

/**
 * Has a decoder that is idle write to the beginning of its buffer again. Where Node.js came to do it in another way this changes nothing but the
 * time it takes.
 */
function rewind(decoder: ZstdDecompress): void {
  Object.assign(decoder, { _outOffset: 0 })
}
