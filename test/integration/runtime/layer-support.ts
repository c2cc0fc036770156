import { lstat, mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import {
  TAR_END,
  type TarHead,
  type TarType,
  tarHead,
  tarPadding,
} from '../../../integration/runtime/layer/tar.ts'
import { run } from '../../../integration/runtime/run.ts'

export const quiet: AbortSignal = new AbortController().signal

export interface Spec {
  name: string
  type?: TarType
  link?: string
  body?: string
  mode?: number
  uid?: number
  size?: number
  xattrs?: Record<string, string | Buffer>
}

/** A tar of just that, whatever it is. */
export async function* tarOf(specs: Spec[]): AsyncGenerator<Buffer> {
  for (const spec of specs) {
    const body = Buffer.from(spec.body ?? '')
    yield tarHead(headOf(spec, body.length))
    if (body.length > 0) yield body
    yield tarPadding(body.length)
  }
  yield TAR_END
}

function headOf(spec: Spec, length: number): TarHead {
  const type = spec.type ?? (spec.name.endsWith('/') ? 'dir' : 'file')
  return {
    name: Buffer.from(spec.name).toString('latin1'),
    type,
    link: spec.link ?? '',
    mode: spec.mode ?? (type === 'dir' ? 0o755 : 0o644),
    uid: spec.uid ?? 0,
    gid: 0,
    size: spec.size ?? length,
    mtime: '1700000000.123456789',
    major: 1,
    minor: 3,
    xattrs: new Map(Object.entries(spec.xattrs ?? {}).map(([key, value]) => [key, Buffer.from(value)])),
  }
}

export async function bytesOf(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of source) parts.push(part)
  return Buffer.concat(parts)
}

export async function scratch(t: Pick<TestContext, 'after'>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-layer-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return dir
}

/** Every file below, with what can be told of it: for comparisons. */
export async function treeOf(dir: string): Promise<Record<string, string>> {
  const tree: Record<string, string> = {}
  const walk = async (at: string): Promise<void> => {
    for (const name of (await readdir(join(dir, at))).sort()) {
      const path = join(at, name)
      const stats = await lstat(join(dir, path))
      const what = stats.isDirectory()
        ? 'dir'
        : stats.isSymbolicLink()
          ? `-> ${await readlink(join(dir, path))}`
          : stats.isFile()
            ? `file ${await readFile(join(dir, path), 'latin1')}`
            : stats.isCharacterDevice()
              ? `char ${stats.rdev}`
              : 'other'
      tree[path] = `${(stats.mode & 0o7777).toString(8)} ${stats.uid} ${what}`
      if (stats.isDirectory()) await walk(path)
    }
  }
  await walk('.')
  return tree
}

/** An overlay mounted of two directories, for as long as `use` takes. */
export async function mounted<T>(lower: string, upper: string, use: (dir: string) => Promise<T>): Promise<T> {
  const base = await mkdtemp(join(upper, '..', 'mount-'))
  const { mkdir } = await import('node:fs/promises')
  const dir = join(base, 'merged')
  await mkdir(dir)
  await mkdir(join(base, 'work'))
  const options = `lowerdir=${lower},upperdir=${upper},workdir=${join(base, 'work')}`
  await run('mount', ['-t', 'overlay', 'overlay', '-o', options, dir], { signal: quiet })
  try {
    return await use(dir)
  } finally {
    await run('umount', [dir], { signal: quiet })
    await rm(base, { recursive: true, force: true })
  }
}
