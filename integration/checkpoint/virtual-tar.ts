import { ShoalError } from '../../base/index.ts'
import type { Part, Virtual } from './virtual.ts'

const BLOCK = 512
const MAX_NAME = 100
/** What eleven octal digits can say; beyond it the size is in base 256 (POSIX.1-2001 archives by GNU tar). */
const MAX_OCTAL = 8 ** 11

export interface TarFile {
  /** In the archive. */
  name: string
  /** In the state. */
  path: string
  size: number
}

/** A tar (ustar) of regular files, always the same bytes for the same files: root's, mode 0600, of the epoch. @throws USAGE for a long name */
export function virtualTar(files: TarFile[]): Virtual {
  const padded = (size: number): number => Math.ceil(size / BLOCK) * BLOCK
  const headers = files.map(header)
  return {
    size: files.reduce((sum, { size }) => sum + BLOCK + padded(size), 0) + 2 * BLOCK,
    *parts(): Generator<Part> {
      for (const [index, { path, size }] of files.entries()) {
        yield { bytes: headers[index]! }
        yield { path, start: 0, end: size }
        yield { bytes: Buffer.alloc(padded(size) - size) }
      }
      yield { bytes: Buffer.alloc(2 * BLOCK) }
    },
  }
}

function header({ name, size }: TarFile): Buffer {
  const block = Buffer.alloc(BLOCK)
  if (Buffer.byteLength(name) > MAX_NAME)
    throw new ShoalError('USAGE', `too long a file name for a checkpoint: ${name}`)
  const octal = (value: number, at: number, digits: number): void => {
    block.write(`${value.toString(8).padStart(digits, '0')}\0`, at)
  }
  block.write(name, 0)
  octal(0o600, 100, 7)
  octal(0, 108, 7)
  octal(0, 116, 7)
  if (size < MAX_OCTAL) octal(size, 124, 11)
  else {
    block[124] = 0x80
    block.writeBigUInt64BE(BigInt(size), 128)
  }
  octal(0, 136, 11)
  block.write(' '.repeat(8), 148)
  block.write('0', 156)
  block.write('ustar\x0000', 257)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return block
}
