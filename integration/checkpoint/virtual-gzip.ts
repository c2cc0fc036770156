import type { Part, Virtual } from './virtual.ts'

/** Most bytes in a stored block of deflate (RFC 1951, 3.2.4). */
const STORED = 65_535
/** Magic, deflate, no flags, no time, no hint, made on an unknown system (RFC 1952, 2.3). */
const HEADER = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])

/**
 * A file of the state as gzip that does not compress: every byte of it has a known place, so that a range of it can be made from a range of the
 * file. containerd takes a checkpoint's writable layer in this form only. @param crc CRC-32 of the file
 */
export function virtualGzip({ path, size, crc }: { path: string; size: number; crc: number }): Virtual {
  const blocks = Math.max(1, Math.ceil(size / STORED))
  return {
    size: HEADER.length + 5 * blocks + size + 8,
    *parts(): Generator<Part> {
      yield { bytes: HEADER }
      for (let block = 0; block < blocks; block++) {
        const start = block * STORED
        const end = Math.min(size, start + STORED)
        const head = Buffer.alloc(5)
        head[0] = block === blocks - 1 ? 1 : 0
        head.writeUInt16LE(end - start, 1)
        head.writeUInt16LE(~(end - start) & 0xffff, 3)
        yield { bytes: head }
        yield { path, start, end }
      }
      const trailer = Buffer.alloc(8)
      trailer.writeUInt32LE(crc, 0)
      trailer.writeUInt32LE(size % 2 ** 32, 4)
      yield { bytes: trailer }
    },
  }
}
