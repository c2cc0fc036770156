import { spawn } from 'node:child_process'
import { lstat, readdir } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { ShoalError } from '../../../base/index.ts'
import { ended, failed, plainEnvironment } from '../run.ts'
import { climbsOut, OPAQUE, WHITEOUT } from './guard.ts'
import { readable, readTar, TAR_END, type TarEntry, type TarHead, tarHead, tarPadding } from './tar.ts'
import { overlayXattr, ownXattrs } from './xattrs.ts'

export interface ReadLayerOptions {
  /** `overlay`: an upper directory of overlayfs. `plain`: all of a root directory, which has nothing below it. */
  form: 'overlay' | 'plain'
  /** Directories whose contents something is mounted over: absolute, as in the container. Only what is in them is left out. */
  hidden?: string[]
  signal: AbortSignal
}

/**
 * A writable layer as an uncompressed OCI layer tar: whiteouts, hard links, symbolic links, FIFOs, owners, modes, times
 * and attributes. The same files give the same bytes, whenever they are read. GNU tar reads the directory, since Node can read no attributes;
 * sockets are left out: who listens on one makes it anew. The stream fails with
 * UNFIT for what a layer cannot say: devices, renamed directories of overlayfs (`redirect_dir`), names like whiteouts.
 */
export function readLayer(dir: string, options: ReadLayerOptions): Readable {
  return Readable.from(layerBytes(dir, options), { objectMode: false, highWaterMark: 256 * 1024 })
}

async function* layerBytes(dir: string, options: ReadLayerOptions): AsyncGenerator<Buffer> {
  const args = [
    ...['-C', dir, '--format=posix', '--numeric-owner', '--sort=name', '--one-file-system'],
    ...['--xattrs', '--xattrs-include=*', '--anchored', '--wildcards-match-slash'],
    ...(options.hidden ?? []).map((path) => `--exclude=.${escaped(path.replace(/\/+$/, ''))}/*`),
    ...['-c', '-f', '-', '.'],
  ]
  const rootTime = await newestIn(dir)
  const child = spawn('tar', args, { stdio: ['ignore', 'pipe', 'pipe'], env: plainEnvironment() })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    said = (said + part).slice(-4096)
  })
  const end = ended(child, 'tar', options)
  end.catch(() => {})
  try {
    try {
      for await (const found of readTar(child.stdout)) {
        const entry = rootTime !== undefined && nameOf(found) === '.' ? { ...found, mtime: rootTime } : found
        yield* options.form === 'overlay' ? fromUpper(entry) : fromPlain(entry)
      }
    } catch (error) {
      // What tar says of its own end is why its output is cut off.
      if (error instanceof ShoalError && error.code === 'PROTOCOL') await checked(end, args, () => said)
      throw error
    }
    await checked(end, args, () => said)
    yield TAR_END
  } finally {
    child.kill('SIGKILL')
    child.stdout.destroy()
  }
}

/**
 * The newest time of what is directly in a directory, which stands for its own: CRIU makes and removes something in the root directory whenever it
 * dumps, so that its own would make another layer of the same files.
 */
async function newestIn(dir: string): Promise<string | undefined> {
  let newest: bigint | undefined
  // A directory that cannot be read is tar's to explain.
  for (const name of await readdir(dir, { encoding: 'buffer' }).catch(() => [])) {
    const path = Buffer.concat([Buffer.from(`${dir}/`), name])
    const time = (await lstat(path, { bigint: true }).catch(() => undefined))?.mtimeNs
    if (time !== undefined && time > (newest ?? 0n)) newest = time
  }
  return newest === undefined
    ? undefined
    : `${newest / 1_000_000_000n}.${String(newest % 1_000_000_000n).padStart(9, '0')}`
}

/** 1 is for files that changed while they were read: the layer of a running container is as good as that. */
async function checked(end: Promise<number>, args: string[], said: () => string): Promise<void> {
  const code = await end
  if (code > 1) throw failed('tar', args, code, said())
}

async function* fromUpper(entry: TarEntry): AsyncGenerator<Buffer> {
  const name = nameOf(entry)
  if (
    (entry.type === 'char' && entry.major === 0 && entry.minor === 0) ||
    (entry.type === 'file' && entry.size === 0 && overlayXattr(entry.xattrs, 'whiteout') !== undefined)
  ) {
    checkName(name)
    const slash = name.lastIndexOf('/') + 1
    yield tarHead(mark(entry, name.slice(0, slash) + WHITEOUT + name.slice(slash)))
    return
  }
  for (const kind of ['redirect', 'metacopy'])
    if (overlayXattr(entry.xattrs, kind) !== undefined)
      throw unfit(name, `is kept in overlayfs’ own way (${kind}), which no layer can say`)
  yield* whole(entry, name)
  if (entry.type === 'dir' && overlayXattr(entry.xattrs, 'opaque') === 'y')
    yield tarHead(mark(entry, name === '.' ? OPAQUE : `${name}/${OPAQUE}`))
}

async function* fromPlain(entry: TarEntry): AsyncGenerator<Buffer> {
  yield* whole(entry, nameOf(entry))
}

async function* whole(entry: TarEntry, name: string): AsyncGenerator<Buffer> {
  checkName(name)
  if (entry.type === 'char' || entry.type === 'block') throw unfit(name, 'is a device, which is not carried')
  if (entry.type === 'symlink' && climbsOut(name, entry.link))
    throw unfit(name, `links out, to ${readable(entry.link)}`)
  const link = entry.type === 'link' ? entry.link.replace(/^(\.\/)+/, '') : entry.link
  yield tarHead({
    ...entry,
    name: entry.type === 'dir' ? `${name}/` : name,
    link,
    xattrs: ownXattrs(entry.xattrs),
  })
  yield* entry.body
  const padding = tarPadding(entry.size)
  if (padding.length > 0) yield padding
}

function mark(entry: TarHead, name: string): TarHead {
  return { ...entry, name, type: 'file', link: '', mode: 0, size: 0, major: 0, minor: 0, xattrs: new Map() }
}

function nameOf(entry: TarHead): string {
  return entry.name.replace(/^(\.\/)+/, '').replace(/\/+$/, '') || '.'
}

function checkName(name: string): void {
  if (name.slice(name.lastIndexOf('/') + 1).startsWith(WHITEOUT))
    throw unfit(name, `has a name that begins with ${WHITEOUT}, as only marks of a layer do`)
}

function unfit(name: string, why: string): ShoalError {
  return new ShoalError('UNFIT', `the writable layer cannot be carried: /${readable(name)} ${why}`)
}

function escaped(path: string): string {
  return path.replace(/[*?[\]\\]/g, '\\$&')
}
