import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encode } from 'cborg'
import fc from 'fast-check'
import { decodeValue, encodeFrame } from '../../manager/wire/codec.ts'
import { createFrameParser } from '../../manager/wire/frames.ts'

/** Cuts `bytes` at the given places, whatever their order. */
function cut(bytes: Buffer, places: number[]): Buffer[] {
  const sorted = [0, ...places.map((p) => p % (bytes.length + 1)), bytes.length].sort((a, b) => a - b)
  return sorted.slice(1).map((end, i) => bytes.subarray(sorted[i], end))
}

test('frames come out whole and in order however the stream is cut', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 12 }),
      fc.array(fc.nat(), { maxLength: 30 }),
      (bodies, places) => {
        const wire = Buffer.concat(
          bodies.map((body) => Buffer.concat([Buffer.from([body.length >> 8, body.length & 255]), body])),
        )
        const got: Buffer[] = []
        let open = Buffer.alloc(0)
        const parser = createFrameParser({
          headerLength: 2,
          onHeader(header) {
            const length = header.readUInt16BE()
            if (length === 0) got.push(Buffer.alloc(0))
            open = Buffer.alloc(length)
            return length
          },
          onBody(part, offset, last) {
            open.set(part, offset)
            if (last) got.push(open)
          },
        })
        for (const part of cut(wire, places)) parser.push(part)
        assert.deepEqual(
          got.map((b) => b.toString('hex')),
          bodies.map((b) => Buffer.from(b).toString('hex')),
        )
      },
    ),
  )
})

test('a value survives the frame codec', () => {
  const value = {
    id: 1,
    list: [1, -1, 2.5, Infinity],
    text: 'é',
    none: undefined,
    bytes: Uint8Array.of(1, 2),
  }
  const frame = encodeFrame(value)
  assert.equal(frame.readUInt32BE(), frame.length - 4)
  assert.deepEqual(decodeValue(frame.subarray(4)), value)
})

test('byte strings of a decoded value are copies, not views into the receive buffer', () => {
  const bytes = Buffer.from(encode({ b: Uint8Array.of(7, 7) }))
  const value = decodeValue(bytes) as { b: Uint8Array }
  bytes.fill(0)
  assert.deepEqual([...value.b], [7, 7])
})

test('the decoder refuses what is not strict, too deep or too much', () => {
  const deep = (levels: number): Uint8Array => Buffer.alloc(levels + 1, 0x81).fill(0x00, levels)
  const cases: Record<string, Uint8Array> = {
    nothing: new Uint8Array(),
    'a trailing byte': Uint8Array.of(0x01, 0x01),
    'a number that is longer than needed': Uint8Array.of(0x18, 0x01),
    'an indefinite array': Uint8Array.of(0x9f, 0x01, 0xff),
    'a repeated key': Uint8Array.of(0xa2, 0x61, 0x61, 0x01, 0x61, 0x61, 0x02),
    'an integer beyond 2^53': Uint8Array.of(0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
    'a huge array that is not there': Uint8Array.of(0x9a, 0xff, 0xff, 0xff, 0xff),
    'a tag': Uint8Array.of(0xc0, 0x01),
    'deep nesting': deep(2000),
    'a million values': Buffer.concat([
      Uint8Array.of(0x9a, 0x00, 0x0f, 0x42, 0x40),
      Buffer.alloc(1_000_000, 0x80),
    ]),
  }
  for (const [name, bytes] of Object.entries(cases)) {
    assert.throws(() => decodeValue(bytes), { code: 'PROTOCOL' }, name)
  }
  assert.ok(decodeValue(deep(20)))
})

test('random bytes never do more than throw PROTOCOL', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        decodeValue(bytes)
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'PROTOCOL')
      }
    }),
  )
})

test('a key named __proto__ does not change the prototype', () => {
  const value = decodeValue(encode(JSON.parse('{"__proto__": {"evil": true}}'))) as { evil?: boolean }
  assert.equal(value.evil, undefined)
})
