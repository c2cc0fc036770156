import { type DecodeOptions, decode, encode, Tokenizer, Type } from 'cborg'
import { ShoalError } from '../../base/index.ts'

const MAX_DEPTH = 32
/** Bounds what a frame can blow up to: an empty array is one byte on the wire and some fifty in memory. */
const MAX_VALUES = 500_000

const STRICT: DecodeOptions = {
  strict: true,
  allowIndefinite: false,
  allowUndefined: true,
  allowInfinity: true,
  allowNaN: false,
  allowBigInt: false,
  rejectDuplicateMapKeys: true,
}

/** cborg's tokenizer, which recurses into whatever it meets, with bounds on depth and number of values. */
class BoundedTokenizer extends Tokenizer {
  #values = 0
  /** For each open array or map, how many values it still wants. */
  readonly #open: number[] = []

  override next() {
    const token = super.next()
    if (++this.#values > MAX_VALUES) throw new Error('too many values')
    const inner = Type.equals(token.type, Type.array)
      ? (token.value as number)
      : Type.equals(token.type, Type.map)
        ? (token.value as number) * 2
        : 0
    if (inner > 0) {
      this.#open.push(inner)
      if (this.#open.length > MAX_DEPTH) throw new Error('nested too deeply')
    } else {
      while (this.#open.length > 0) {
        const left = (this.#open.pop() as number) - 1
        if (left > 0) {
          this.#open.push(left)
          break
        }
      }
    }
    return token
  }
}

/** The value of untrusted CBOR bytes. Byte strings in it are copies. @throws ShoalError PROTOCOL */
export function decodeValue(bytes: Uint8Array): unknown {
  // A plain Uint8Array: a Buffer's `slice`, which cborg uses for byte strings, would be a view into the receive buffer.
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length)
  try {
    return decode(plain, { ...STRICT, tokenizer: new BoundedTokenizer(plain, STRICT) })
  } catch (error) {
    throw new ShoalError('PROTOCOL', 'not the CBOR that is spoken here', { cause: error })
  }
}

/** A frame: the length of its CBOR body as four bytes, big-endian, then the body. */
export function encodeFrame(value: unknown): Buffer {
  const body = encode(value)
  const frame = Buffer.allocUnsafe(4 + body.length)
  frame.writeUInt32BE(body.length)
  frame.set(body, 4)
  return frame
}
