import { spawn } from 'node:child_process'
import { chmod, chown, lstat, mkdir, mkdtemp, rename, rm, statfs } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { addAbortSignal, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { ShoalError } from '../../../base/index.ts'
import { aborted, ended, failed, plainEnvironment } from '../run.ts'
import { DEFAULT_LIMITS, guardLayer, type LayerEntry, type LayerLimits } from './guard.ts'
import { merge } from './merge.ts'
import { readTar, TAR_END, type TarHead, tarHead, tarPadding } from './tar.ts'
import { ownXattrs } from './xattrs.ts'

export interface ApplyLayerOptions {
  /**
   * `overlay`: `dir` becomes the upper directory that the layer says, whatever it was; not while it is mounted.
   * `plain`: `dir` becomes a root directory of its own; whiteouts have nothing to hide there.
   * `merged`: `dir` is a root file system that the layer is laid over, such as a mounted one; whiteouts remove.
   */
  form: 'overlay' | 'plain' | 'merged'
  /** Attributes of the upper directory that overlayfs looks at. Default `trusted`; `user` is for mounts with `userxattr`. */
  overlayXattrs?: 'trusted' | 'user'
  signal: AbortSignal
}

/**
 * Makes a directory what an OCI layer tar (uncompressed) says. All of it is first unpacked into a new directory beside
 * or, for `merged`, within: what is hostile, broken or too large is refused before `dir` is touched, and nothing is left.
 * @throws DENIED, PROTOCOL, STORE_FULL, RUNTIME, ABORTED
 */
export async function applyLayer(
  source: AsyncIterable<Buffer>,
  dir: string,
  options: ApplyLayerOptions,
): Promise<void> {
  const within = options.form === 'merged'
  const stage = await mkdtemp(join(within ? dir : dirname(dir), `.shoal-${within ? '' : basename(dir)}-`))
  try {
    // Nobody else looks in until it is what it is to be: a layer may have programs with setuid.
    const unpacked = join(stage, 'layer')
    await mkdir(unpacked, { mode: 0o755 })
    const old = await lstat(dir).catch(() => undefined)
    if (old?.isDirectory()) {
      await chown(unpacked, old.uid, old.gid)
      await chmod(unpacked, old.mode & 0o7777)
    }
    await unpack(source, unpacked, await roomAt(stage), options)
    if (within) await merge(unpacked, dir, options.signal)
    else {
      if (old) await rename(dir, join(stage, 'old'))
      await rename(unpacked, dir)
    }
  } finally {
    await rm(stage, { recursive: true, force: true })
  }
}

/** Reads a layer to its end and writes nothing. @throws DENIED | PROTOCOL for one that `applyLayer` would refuse */
export async function checkLayer(
  source: AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<{ entries: number; bytes: number }> {
  let entries = 0
  let bytes = 0
  for await (const entry of guardLayer(readTar(source), DEFAULT_LIMITS)) {
    signal.throwIfAborted()
    entries++
    bytes += entry.size
  }
  return { entries, bytes }
}

async function roomAt(dir: string): Promise<LayerLimits> {
  const { bavail, bsize } = await statfs(dir)
  const room = bavail * bsize
  if (room >= DEFAULT_LIMITS.maxBytes) return DEFAULT_LIMITS
  return {
    maxBytes: room,
    tooLarge: (bytes) =>
      new ShoalError(
        'STORE_FULL',
        `the writable layer has ${bytes} bytes or more, and there is room for ${room}`,
      ),
  }
}

async function unpack(
  source: AsyncIterable<Buffer>,
  dir: string,
  limits: LayerLimits,
  options: ApplyLayerOptions,
): Promise<void> {
  const args = ['-C', dir, '--numeric-owner', '--same-permissions', '--delay-directory-restore']
  if (process.getuid?.() === 0) args.push('--same-owner')
  args.push('--xattrs', '--xattrs-include=*', '-x', '-f', '-')
  const child = spawn('tar', args, { stdio: ['pipe', 'ignore', 'pipe'], env: plainEnvironment() })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    said = (said + part).slice(-4096)
  })
  const end = ended(child, 'tar', options)
  let own: unknown
  // A source that says nothing more must not keep who gives up.
  const stream = source instanceof Readable ? source : Readable.from(source)
  addAbortSignal(options.signal, stream)
  async function* bytes(): AsyncGenerator<Buffer> {
    const parts = translated(guardLayer(readTar(stream), limits), options)
    try {
      for (;;) {
        const next = await parts.next().catch((error: unknown) => {
          own = error
          throw error
        })
        if (next.done) return
        yield next.value
      }
    } finally {
      await parts.return(undefined).catch(() => {})
    }
  }
  const feed = pipeline(Readable.from(bytes(), { objectMode: false }), child.stdin).catch((error) => {
    // What went wrong here is what counts, and not that tar then missed the rest; but a closed pipe is tar's to explain.
    if (own !== undefined) child.kill('SIGKILL')
    return error as unknown
  })
  const [code, broke] = await Promise.all([
    end.catch((error: unknown) => {
      if (own === undefined) own = error
      child.stdin.destroy()
      return -1
    }),
    feed,
  ])
  if (options.signal.aborted) throw aborted(options.signal)
  if (own !== undefined) throw own
  if (code !== 0) throw failed('tar', args, code, said)
  if (broke !== undefined) throw broke
}

/** The layer as what GNU tar is to unpack, in the form of the directory. */
async function* translated(
  entries: AsyncIterable<LayerEntry>,
  options: ApplyLayerOptions,
): AsyncGenerator<Buffer> {
  /** The directories above the last entry: an opaque mark belongs to one of them. */
  const above: TarHead[] = []
  for await (const entry of entries) {
    while (above.length > 0 && !isBelow(entry.name, above.at(-1)!.name)) above.pop()
    if (entry.whiteout === 'no') {
      const head = { ...entry, name: entry.name || '.', xattrs: ownXattrs(entry.xattrs) }
      if (entry.type === 'dir') above.push({ ...head, name: entry.name })
      yield tarHead(head)
      yield* entry.body
      const padding = tarPadding(entry.size)
      if (padding.length > 0) yield padding
    } else if (options.form === 'merged') {
      yield tarHead({ ...entry, xattrs: new Map() })
    } else if (options.form === 'overlay') {
      yield tarHead(
        entry.whiteout === 'removed'
          ? { ...entry, name: entry.target, type: 'char', mode: 0, major: 0, minor: 0, xattrs: new Map() }
          : opaque(entry, above.at(-1), options.overlayXattrs ?? 'trusted'),
      )
    }
  }
  yield TAR_END
}

function opaque(entry: LayerEntry, dir: TarHead | undefined, space: string): TarHead {
  if (dir?.name !== entry.target)
    throw new ShoalError('DENIED', 'the layer is refused: an opaque mark is not next to its directory')
  return {
    ...dir,
    name: dir.name || '.',
    xattrs: new Map([...dir.xattrs, [`${space}.overlay.opaque`, Buffer.from('y')]]),
  }
}

function isBelow(name: string, dir: string): boolean {
  return dir === '' ? name !== '' : name.startsWith(`${dir}/`)
}
