import { execFileSync } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { Readable } from 'node:stream'
import { createGzip } from 'node:zlib'

/** An image to make: random layers of given sizes, so that nothing compresses and nothing is the same by chance. */
export interface ImageSpec {
  name: string
  tag: string
  /** Bytes of each layer, of this machine's platform; those with a seed of their own are the same in every image that names it. */
  layers: (number | { size: number; seed: string })[]
  /** Other seeds give other bytes; default: name and tag. */
  seed?: string
  /** Media types of the OCI or of Docker's schema 2; default oci. */
  format?: 'oci' | 'docker'
  /** Further platforms (`linux/arm64`) make it an index; each gets one small layer of its own. */
  platforms?: string[]
  /** Adds a layer with a static busybox, and a command that prints `hello from NAME:TAG`. */
  runnable?: boolean
  /** Adds a layer with these programs of this machine, below /bin, and the libraries that they need. */
  programs?: string[]
}

export const ARCH = process.arch === 'arm64' ? 'arm64' : 'amd64'

export const MEDIA = {
  oci: {
    index: 'application/vnd.oci.image.index.v1+json',
    manifest: 'application/vnd.oci.image.manifest.v1+json',
    config: 'application/vnd.oci.image.config.v1+json',
    layer: 'application/vnd.oci.image.layer.v1.tar+gzip',
  },
  docker: {
    index: 'application/vnd.docker.distribution.manifest.list.v2+json',
    manifest: 'application/vnd.docker.distribution.manifest.v2+json',
    config: 'application/vnd.docker.container.image.v1+json',
    layer: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  },
} as const

export interface Layer {
  /** The compressed layer's bytes; `diffId` is known when they have been read. */
  bytes: AsyncIterable<Buffer>
  diffId(): string
}

/** A layer with one file of random bytes. gzip stores them: real clients unpack it, and no time goes into compressing. */
export function randomLayer(seed: string, size: number, path: string): Layer {
  return gzipped(tar([{ path, mode: 0o644, size, content: randomBytes(seed, size) }]))
}

export function busyboxLayer(): Layer {
  const binary = readFileSync('/bin/busybox')
  return gzipped(
    tar([
      { path: 'bin/busybox', mode: 0o755, size: binary.length, content: [binary] },
      { path: 'bin/sh', mode: 0o777, size: 0, content: [], link: 'busybox' },
    ]),
  )
}

/** Programs as `bin/NAME`, each library at its own path. */
export function programsLayer(programs: string[]): Layer {
  const entries = new Map<string, Entry>()
  const add = (path: string, from: string): void => {
    const content = readFileSync(from)
    entries.set(path, { path, mode: 0o755, size: content.length, content: [content] })
  }
  for (const program of programs) {
    add(`bin/${basename(program)}`, program)
    const said = execFileSync('ldd', [program], { encoding: 'utf8' })
    for (const [library] of said.matchAll(/\/\S+/g)) add(library.slice(1), library)
  }
  return gzipped(tar([...entries.values()]))
}

/** The bytes of AES-CTR over nothing: as good as random, the same for the same seed, and fast. */
function* randomBytes(seed: string, size: number): Generator<Buffer> {
  const key = createHash('sha256').update(seed).digest()
  const cipher = createCipheriv('aes-128-ctr', key.subarray(0, 16), key.subarray(16))
  const zeros = Buffer.alloc(256 * 1024)
  for (let left = size; left > 0; left -= zeros.length) {
    yield cipher.update(left < zeros.length ? zeros.subarray(0, left) : zeros)
  }
}

interface Entry {
  path: string
  mode: number
  size: number
  content: Iterable<Buffer>
  link?: string
}

function* tar(entries: Entry[]): Generator<Buffer> {
  for (const entry of entries) {
    yield header(entry)
    yield* entry.content
    yield Buffer.alloc((512 - (entry.size % 512)) % 512)
  }
  yield Buffer.alloc(1024)
}

/** A ustar header (POSIX.1-1988). */
function header({ path, mode, size, link }: Entry): Buffer {
  const block = Buffer.alloc(512)
  const octal = (value: number, at: number, length: number) =>
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'ascii')
  block.write(path, 0, 'ascii')
  octal(mode, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(size, 124, 12)
  octal(0, 136, 12)
  block.write('        ', 148, 'ascii')
  block.write(link === undefined ? '0' : '2', 156, 'ascii')
  block.write(link ?? '', 157, 'ascii')
  block.write('ustar\x0000', 257, 'ascii')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'ascii')
  return block
}

function gzipped(plain: Iterable<Buffer>): Layer {
  const hash = createHash('sha256')
  let diffId = ''
  function* hashed(): Generator<Buffer> {
    for (const chunk of plain) {
      hash.update(chunk)
      yield chunk
    }
    diffId = `sha256:${hash.digest('hex')}`
  }
  // Not an object stream: its high-water mark counts bytes.
  const bytes = Readable.from(hashed(), { objectMode: false }).pipe(
    createGzip({ level: 0, chunkSize: 256 * 1024 }),
  )
  return { bytes, diffId: () => diffId }
}
