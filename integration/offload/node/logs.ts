import { mkdir, readdir, rm, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'

/** Of one pod. What came last before it was reached is lost: a log that is kept needs a log service. */
const MAX_BYTES = 4 * 2 ** 20
const LOOK_MS = 10e3

/** The output of pods, a file each; a file that became too long is emptied (the runtime appends, so that it goes on from there). */
export interface PodLogs {
  file(name: string): string
  drop(name: string): Promise<void>
  /** One look at all files. */
  trim(): Promise<void>
  close(): void
}

export async function createPodLogs({
  dir,
  maxBytes = MAX_BYTES,
}: {
  dir: string
  maxBytes?: number
}): Promise<PodLogs> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const file = (name: string): string => join(dir, `${name}.log`)
  async function trim(): Promise<void> {
    for (const entry of await readdir(dir).catch(() => [])) {
      const path = join(dir, entry)
      // A pod may go meanwhile, and its file with it.
      const size = await stat(path).then(
        (found) => found.size,
        () => 0,
      )
      if (size > maxBytes) await truncate(path).catch(() => {})
    }
  }
  const timer = setInterval(() => void trim(), LOOK_MS)
  timer.unref()
  return {
    file,
    drop: (name) => rm(file(name), { force: true }),
    trim,
    close: () => clearInterval(timer),
  }
}
