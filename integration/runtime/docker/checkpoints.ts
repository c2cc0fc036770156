import { randomUUID } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import {
  constants,
  copyFile,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
} from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
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
 * Holds CRIU's log of a restore open from its beginning: containerd removes it with all else when the restore fails, and docker only says that
 * it did. `words` ends the watch.
 */
export function watchRestore(id: string): { words(): Promise<string>; close(): Promise<void> } {
  const stop = new AbortController()
  let file: FileHandle | undefined
  const watching = (async () => {
    const find = shimFinder(id)
    for (let dir: string | undefined; !file && !stop.signal.aborted; ) {
      dir ??= await find()
      if (dir !== undefined) file = await open(join(dir, 'restore.log'), 'r').catch(() => undefined)
      if (!file) await setTimeout(POLL_MS, undefined, { signal: stop.signal }).catch(() => {})
    }
  })().catch(() => {})
  const close = async (): Promise<void> => {
    stop.abort()
    await watching
    await file?.close()
    file = undefined
  }
  return {
    async words() {
      stop.abort()
      await watching
      // By its descriptor: it has no name any more.
      const words = file ? await wordsIn(`/proc/self/fd/${file.fd}`) : ''
      await close()
      return words
    },
    close,
  }
}

/** CRIU may have failed after some tens of ms. */
const POLL_MS = 5

/** Asked again and again, it finds the work directory of the shim that is started for a container; it looks at each process once. */
function shimFinder(id: string): () => Promise<string | undefined> {
  const seen = new Set<string>()
  return async () => {
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid) || seen.has(pid)) continue
      const args = (await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).split('\0')
      // Until it has its own command line a new process has that of its parent.
      if (args[0]?.includes('containerd-shim') && args.includes(id)) {
        const dir = await realpath(`/proc/${pid}/cwd/work`).catch(() => undefined)
        if (dir !== undefined) return dir
      } else if (!args[0]?.includes('containerd')) seen.add(pid)
    }
    return undefined
  }
}
