/** Unsigned LEB128, up to 2^48; signed ones by zigzag. */
export function createWriter() {
  let out = Buffer.allocUnsafe(256)
  let at = 0
  const put = (value: number): void => {
    if (at + 8 > out.length) out = Buffer.concat([out], out.length * 2)
    let rest = value
    while (rest > 127) {
      out[at++] = (rest % 128) + 128
      rest = Math.floor(rest / 128)
    }
    out[at++] = rest
  }
  return {
    put,
    putSigned: (value: number) => put(value < 0 ? -2 * value - 1 : 2 * value),
    bytes: (): Uint8Array => new Uint8Array(out.subarray(0, at)),
  }
}

/** @param bad makes the error that is thrown for what `createWriter` does not write */
export function createReader(bytes: Uint8Array, bad: (what: string) => Error) {
  let at = 0
  const take = (): number => {
    let value = 0
    for (let scale = 1; scale <= 2 ** 42; scale *= 128) {
      const byte = bytes[at++]
      if (byte === undefined) throw bad('it ends in a number')
      value += (byte & 127) * scale
      if (byte < 128) {
        if (byte === 0 && scale > 1) throw bad('a number that is longer than need be')
        return value
      }
    }
    throw bad('a number that is too large')
  }
  return {
    take,
    takeSigned(): number {
      const value = take()
      return value % 2 === 1 ? -(value + 1) / 2 : value / 2
    },
    ended: () => at === bytes.length,
  }
}
