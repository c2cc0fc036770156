import { chmod, chown, lstat, readdir, rename, rm, utimes } from 'node:fs/promises'
import { OPAQUE, WHITEOUT } from './guard.ts'

/**
 * Moves an unpacked layer, its whiteouts still files, over a root file system on the same mount. Each directory is looked at
 * before anything is put into it, so that no symbolic link of the root file system leads elsewhere.
 */
export async function merge(from: string, to: string, signal: AbortSignal): Promise<void> {
  await mergeDir(latin(from), latin(to), signal)
}

async function mergeDir(from: string, to: string, signal: AbortSignal): Promise<void> {
  const names = await namesOf(from)
  // Marks count for what was there before, so they come first.
  if (names.includes(OPAQUE)) {
    for (const name of await namesOf(to)) if (!from.startsWith(`${to}/${name}/`)) await clear(`${to}/${name}`)
  }
  for (const name of names)
    if (name.startsWith(WHITEOUT) && name !== OPAQUE) await clear(`${to}/${name.slice(WHITEOUT.length)}`)
  for (const name of names) {
    signal.throwIfAborted()
    if (name.startsWith(WHITEOUT)) continue
    const source = `${from}/${name}`
    const target = `${to}/${name}`
    const isDir = (await lstat(raw(source))).isDirectory()
    const there = await lstat(raw(target)).catch(() => undefined)
    if (isDir && there?.isDirectory()) await mergeDir(source, target, signal)
    else {
      if (there && (isDir || there.isDirectory())) await clear(target)
      await rename(raw(source), raw(target))
      if (isDir) await withoutMarks(target)
    }
  }
  const { uid, gid, mode, atimeMs, mtimeMs } = await lstat(raw(from))
  await chown(raw(to), uid, gid)
  await chmod(raw(to), mode & 0o7777)
  await utimes(raw(to), atimeMs / 1000, mtimeMs / 1000)
}

/** A directory that is new has nothing to hide. */
async function withoutMarks(dir: string): Promise<void> {
  const { atimeMs, mtimeMs } = await lstat(raw(dir))
  let touched = false
  for (const name of await namesOf(dir)) {
    const path = `${dir}/${name}`
    if (name.startsWith(WHITEOUT)) {
      await clear(path)
      touched = true
    } else if ((await lstat(raw(path))).isDirectory()) await withoutMarks(path)
  }
  if (touched) await utimes(raw(dir), atimeMs / 1000, mtimeMs / 1000)
}

async function clear(path: string): Promise<void> {
  await rm(raw(path), { recursive: true, force: true })
}

async function namesOf(dir: string): Promise<string[]> {
  return await readdir(raw(dir), { encoding: 'latin1' })
}

/** Paths as `latin1` text, a character a byte: names need not be UTF-8. */
function raw(path: string): Buffer {
  return Buffer.from(path, 'latin1')
}

function latin(path: string): string {
  return Buffer.from(path).toString('latin1')
}
