import { constants } from 'node:fs'
import { type FileHandle, open, rm } from 'node:fs/promises'

/**
 * A small file by which bytes go between the daemon and a job, a chunk in each of its places: nothing is allocated for them on
 * either side, and they hardly leave the page cache.
 */
export interface Spool {
  readonly path: string
  put(bytes: Uint8Array, at: number): Promise<void>
  take(into: Buffer, at: number): Promise<void>
  close(): Promise<void>
}

export function createSpool(path: string): Spool {
  let opened: Promise<FileHandle> | undefined
  const file = (): Promise<FileHandle> => {
    // Whoever needs it first makes it.
    opened ??= open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
    return opened
  }
  return {
    path,
    async put(bytes, at) {
      const handle = await file()
      for (let done = 0; done < bytes.length; )
        done += (await handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten
    },
    async take(into, at) {
      const { bytesRead } = await (await file()).read(into, 0, into.length, at)
      if (bytesRead !== into.length) throw new Error(`${path} is too short`)
    },
    async close() {
      await opened?.then(
        (handle) => handle.close(),
        () => {},
      )
      await rm(path, { force: true })
    },
  }
}
