import { randomUUID } from 'node:crypto'
import { closeSync, openSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { constants, copyFile, link, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { wordsIn } from '../criu.ts'

/** Where docker keeps a container's checkpoints: `--checkpoint-dir` is refused when one is started. */
export function checkpointDir(root: string, id: string, name: string): string {
  return join(root, 'containers', id, 'checkpoints', name)
}

export function checkpointName(): string {
  return `shoal-${randomUUID()}`
}

/** Moves the files of a directory into another, over file systems where need be. */
export async function moveFiles(from: string, to: string): Promise<void> {
  await eachFile(from, to, async (source, target) => {
    await rename(source, target).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EXDEV') throw error
      await copyFile(source, target, constants.COPYFILE_FICLONE)
      await rm(source)
    })
  })
}

/** The same files in another directory, by links where that goes. */
export async function linkFiles(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o700 })
  await eachFile(from, to, async (source, target) => {
    await link(source, target).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EXDEV' && error.code !== 'EPERM' && error.code !== 'EMLINK') throw error
      await copyFile(source, target, constants.COPYFILE_FICLONE)
    })
  })
}

async function eachFile(
  from: string,
  to: string,
  use: (source: string, target: string) => Promise<void>,
): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true }))
    if (entry.isFile()) await use(join(from, entry.name), join(to, entry.name))
}

/**
 * Holds CRIU's log of a restore open from its beginning, if it is seen in time: containerd removes it with all else when the restore fails, and
 * docker only says that it did. To be begun before the restore; `words` ends the watch. `log`: where it was the last time.
 */
export function watchRestore(id: string, log?: string): { words(): Promise<string>; close(): void } {
  const find = log === undefined ? shimFinder(id) : () => log
  let path: string | undefined
  let fd: number | undefined
  const timer = setInterval(() => {
    path ??= find()
    if (path === undefined) return
    try {
      fd = openSync(path, 'r')
      clearInterval(timer)
    } catch {
      // Not yet.
    }
  }, POLL_MS)
  const close = (): void => {
    clearInterval(timer)
    if (fd !== undefined) closeSync(fd)
    fd = undefined
  }
  return {
    async words() {
      clearInterval(timer)
      // By its descriptor: it has no name any more.
      const words = fd === undefined ? '' : await wordsIn(`/proc/self/fd/${fd}`)
      close()
      return words
    },
    close,
  }
}

/** CRIU may have failed after some tens of ms. */
const POLL_MS = 2

/** Asked again and again, it finds the log in the work directory of the shim that is started for a container. What /proc says waits for no disk. */
function shimFinder(id: string): () => string | undefined {
  const seen = new Set(readdirSync('/proc'))
  return () => {
    for (const pid of readdirSync('/proc')) {
      if (seen.has(pid)) continue
      try {
        const args = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')
        if (args[0]?.includes('containerd-shim') && args.includes(id))
          return join(realpathSync(`/proc/${pid}/cwd/work`), 'restore.log')
        // Until it has its own command line a new process has that of its parent, or none.
        if (args[0] !== '' && !args[0]?.includes('containerd')) seen.add(pid)
      } catch {
        // It has ended, or has no directory yet.
      }
    }
    return undefined
  }
}
