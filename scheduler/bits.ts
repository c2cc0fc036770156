/*
 * Bitfields as they travel between nodes: bit i is in byte i >> 3, least significant bit first. Bits past the end of a
 * field count as clear, so that fields of different lengths can be compared.
 */

/** A bitfield with room for `bits` bits, all clear. */
export function bitfield(bits: number): Uint8Array {
  return new Uint8Array(Math.ceil(bits / 8))
}

/** A bitfield of `bits` bits, all set; the spare bits of the last byte stay clear. */
export function fullBitfield(bits: number): Uint8Array {
  const field = bitfield(bits).fill(0xff)
  if (bits % 8 !== 0) field[field.length - 1] = (1 << (bits % 8)) - 1
  return field
}

export function hasBit(field: Uint8Array, index: number): boolean {
  return (((field[Math.floor(index / 8)] ?? 0) >> (index & 7)) & 1) === 1
}

/** Sets a bit; true if it was clear. A bit past the end is not set. */
export function setBit(field: Uint8Array, index: number): boolean {
  const at = Math.floor(index / 8)
  const old = field[at]
  if (old === undefined) return false
  const mask = 1 << (index & 7)
  field[at] = old | mask
  return (old & mask) === 0
}

/** Clears a bit; true if it was set. */
export function clearBit(field: Uint8Array, index: number): boolean {
  const at = Math.floor(index / 8)
  const old = field[at]
  if (old === undefined) return false
  const mask = 1 << (index & 7)
  field[at] = old & ~mask
  return (old & mask) !== 0
}

/** How many bits are set. */
export function countBits(field: Uint8Array): number {
  let total = 0
  for (const byte of field) total += COUNTS[byte]!
  return total
}

/** True if `have` has a bit set that `other` has not. */
export function offersBits(have: Uint8Array, other: Uint8Array): boolean {
  for (let i = 0; i < have.length; i++) {
    const byte = have[i]!
    if (byte !== 0 && (byte & ~(other[i] ?? 0)) !== 0) return true
  }
  return false
}

/** The indexes of the set bits, ascending. */
export function bitIndexes(field: Uint8Array): number[] {
  const indexes: number[] = []
  for (let i = 0; i < field.length; i++) {
    for (let byte = field[i]!; byte !== 0; byte &= byte - 1) {
      indexes.push(i * 8 + (31 - Math.clz32(byte & -byte)))
    }
  }
  return indexes
}

const COUNTS = Uint8Array.from({ length: 256 }, (_, byte) => {
  let bits = 0
  for (let rest = byte; rest !== 0; rest &= rest - 1) bits++
  return bits
})
