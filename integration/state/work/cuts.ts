import { readSync } from 'node:fs'
import { PAGE } from '../form/limits.ts'

const BLOCK = 512
/** Smaller files in a tar are not worth a cut: they and the headers between them are cut as they lie. */
const LARGE = 4 * PAGE

/**
 * Where pages of a file begin anew: at its start and, in a tar, where the content of a large file begins or ends, so that it is cut
 * into the same pages wherever in the tar it is. Yields the ends of the parts. Whatever is not a sound tar is one part from there on.
 */
export function* partsOf(fd: number, size: number): Generator<number> {
  const header = Buffer.allocUnsafe(BLOCK)
  let at = 0
  while (at + BLOCK <= size) {
    if (readSync(fd, header, 0, BLOCK, at) !== BLOCK) break
    const length = contentOf(header)
    if (length === undefined) break
    const start = at + BLOCK
    const next = start + Math.ceil(length / BLOCK) * BLOCK
    if (next > size) break
    if (length >= LARGE) {
      yield start
      yield next
    }
    at = next
  }
  yield size
}

/** Bytes of content that a tar header announces; undefined if it is none. */
function contentOf(header: Buffer): number | undefined {
  if (header.toString('latin1', 257, 262) !== 'ustar' || !isSum(header)) return undefined
  // Hard links, symbolic links and what else has no content may have a size all the same.
  const type = String.fromCharCode(header[156] as number)
  if ('123456'.includes(type)) return 0
  if (((header[124] as number) & 0x80) !== 0) {
    const size = header.readUIntBE(130, 6)
    return Number.isSafeInteger(size) ? size : undefined
  }
  const text = header.toString('latin1', 124, 136).replace(/[\0 ].*$/s, '')
  return /^[0-7]{1,12}$/.test(text) ? Number.parseInt(text, 8) : undefined
}

function isSum(header: Buffer): boolean {
  let sum = 8 * 32
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += header[i] as number
  return sum === Number.parseInt(header.toString('latin1', 148, 156).trim(), 8)
}
