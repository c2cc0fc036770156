import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { ShoalError } from '../../../base/index.ts'
import { openPart, sealPart } from './seal.ts'

const FAST = { [constants.ZSTD_c_compressionLevel]: 1 }

/** The frame compressed, or the bytes themselves where that would not make it shorter; then sealed, where there is a key. */
export function packFrame(bytes: Uint8Array, key: Uint8Array | undefined): Uint8Array {
  // Node.js appends an empty frame to what fills its buffer to the last byte: what fills this one is not shorter.
  const packed = zstdCompressSync(bytes, { params: FAST, chunkSize: Math.max(bytes.length, 64) })
  const shorter = packed.length < bytes.length ? packed : bytes
  return key ? sealPart(key, shorter) : shorter
}

/** An empty frame of zstd (RFC 8878), and where older versions had one: behind a frame that fills buffers of so many bytes. */
const EMPTY = Buffer.from('28b52ffd2000010000', 'hex')
const OLD_BUFFER = 16 * 1024

/** The frame alone, for who reads on behind its end. */
export function alone(packed: Buffer): Buffer {
  const length = packed.length - EMPTY.length
  const isFollowed = length > 0 && length % OLD_BUFFER === 0 && packed.subarray(length).equals(EMPTY)
  return isFollowed ? packed.subarray(0, length) : packed
}

/** @throws PROTOCOL unless it unpacks to exactly so many bytes | DENIED */
export function unpackFrame(frame: Uint8Array, length: number, key: Uint8Array | undefined): Uint8Array {
  const packed = key ? openPart(key, frame) : frame
  if (packed.length === length) return packed
  let bytes: Uint8Array | undefined
  try {
    bytes = zstdDecompressSync(packed, { maxOutputLength: length, chunkSize: length })
  } catch {
    // Said below.
  }
  if (bytes?.length !== length) throw notAsSaid()
  return bytes
}

export function notAsSaid(): ShoalError {
  return new ShoalError('PROTOCOL', 'a frame of a pack is not what its recipe says')
}

/** A recipe as a blob. */
export function packRecipe(bytes: Uint8Array, key: Uint8Array | undefined): Uint8Array {
  const packed = zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 3 } })
  return key ? sealPart(key, packed) : packed
}

/** @throws PROTOCOL | DENIED */
export function unpackRecipe(blob: Uint8Array, most: number, key: Uint8Array | undefined): Uint8Array {
  const packed = key ? openPart(key, blob) : blob
  try {
    return zstdDecompressSync(packed, { maxOutputLength: most })
  } catch {
    throw new ShoalError('PROTOCOL', 'the recipe is not valid: it does not unpack')
  }
}
