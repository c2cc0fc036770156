import { randomFillSync } from 'node:crypto'
import { open, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Log } from '../base/index.ts'
import { isNoSpace } from './faults.ts'

/**
 * Bytes of the spare file. LevelDB needs them to open again on a full disk: the table it writes out of its log (at most
 * one write buffer, 1 MiB), a manifest, and some air for the deletions that then make room.
 */
export const SPARE_BYTES = 4 * 1024 * 1024
const CHUNK = 256 * 1024

/** A file that only takes up room, given up so that the index can be written when blocks have filled the disk. */
export interface Spare {
  /** Makes the file if it is not there; false when the disk has no room for it, and then blocks must not be written. */
  ensure(): Promise<boolean>
  /** Gives the room back to the disk. */
  release(): Promise<void>
}

export function createSpare({ dir, log }: { dir: string; log: Log }): Spare {
  const path = join(dir, 'spare')
  let present = false
  let making: Promise<boolean> | undefined

  async function make(): Promise<boolean> {
    const found = await stat(path).catch(() => undefined)
    if (found?.size === SPARE_BYTES) return true
    // Random bytes: a file system that compresses would keep no room for zeros.
    const chunk = Buffer.allocUnsafe(CHUNK)
    try {
      const file = await open(path, 'w', 0o600)
      try {
        for (let done = 0; done < SPARE_BYTES; done += CHUNK) {
          randomFillSync(chunk)
          await file.writeFile(chunk)
        }
      } finally {
        await file.close()
      }
      return true
    } catch (error) {
      await rm(path, { force: true })
      if (!isNoSpace(error)) throw error
      log.debug({ dir }, 'no room on the disk for the index’s spare file')
      return false
    }
  }

  return {
    async ensure() {
      if (present) return true
      making ??= make().finally(() => {
        making = undefined
      })
      present = await making
      return present
    },
    async release() {
      await making?.catch(() => {})
      present = false
      await rm(path, { force: true })
    },
  }
}
