import { createCipheriv, createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'

/** Bytes that look random, cannot be compressed, and are the same for the same seed. */
export function pseudoRandom(size: number, seed: string): Buffer {
  const key = createHash('sha256').update(seed).digest()
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  return cipher.update(Buffer.alloc(size))
}

/** A ustar archive with one regular file, readable by every container runtime. */
export function tarOf(name: string, content: Uint8Array): Buffer {
  const header = Buffer.alloc(512)
  const octal = (value: number, at: number, width: number): void => {
    header.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1')
  }
  header.write(name, 0, 100, 'utf8')
  octal(0o644, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(content.length, 124, 12)
  octal(1_700_000_000, 136, 12)
  header.fill(' ', 148, 156)
  header.write('0', 156, 'latin1')
  header.write('ustar\u000000', 257, 'latin1')
  let sum = 0
  for (const byte of header) sum += byte
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  const padding = (512 - (content.length % 512)) % 512
  return Buffer.concat([header, content, Buffer.alloc(padding + 1024)])
}

/** A layer of about `size` bytes: a tar with one file of pseudo-random bytes. Gzip does not shrink it, and is fast: stored. */
export function randomLayer(size: number, seed: string, gzip: boolean): { blob: Buffer; diffId: string } {
  const tar = tarOf(`layer-${seed.replaceAll(/[^a-z0-9.-]/gi, '_')}.bin`, pseudoRandom(size, seed))
  const diffId = `sha256:${createHash('sha256').update(tar).digest('hex')}`
  return { blob: gzip ? gzipSync(tar, { level: 0 }) : tar, diffId }
}
