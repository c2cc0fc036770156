import fs from 'node:fs'
import { mkdir, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { shardOf } from './keys.ts'
import type { Cid } from './types.ts'

/** A file's outside at a moment. */
export interface Stamp {
  size: number
  /** Inode, size and times in one text; undefined where the file system's clock is too coarse to tell a change by. */
  print: string | undefined
}

export interface OpenFile {
  fd: number
  stamp: Stamp
}

/** Block files: written beside, moved in place by rename, so that a file with a block's name is whole unless the disk failed. */
export interface BlockFiles {
  pathOf(cid: Cid): string
  /** Writes the bytes to a temporary file and resolves to its path; leaves nothing behind when it fails. */
  stage(bytes: Uint8Array): Promise<string>
  /** Removes a staged file that is not wanted after all. */
  discard(staged: string): Promise<void>
  /** Gives a staged file the block's name, in place of a file that may have it. */
  adopt(staged: string, cid: Cid): Promise<Stamp>
  /** Undefined when there is no such file. The caller closes it with `close`. */
  open(cid: Cid): OpenFile | undefined
  /** Fills `target` from the file's start, and resolves to the bytes read: fewer when the file is shorter by now.
   * `cached`: it is known to be in memory, so that reading waits for no disk. */
  read(file: OpenFile, target: Buffer, cached: boolean): Promise<number>
  /** What an open file looks like now. */
  look(file: OpenFile): Stamp
  close(file: OpenFile): void
  stamp(cid: Cid): Stamp | undefined
  /** No error when there is no such file. */
  remove(cid: Cid): Promise<void>
  /** Directories that exist below `blocks/`. */
  shards(): Promise<string[]>
  /** Names of the files in one of them. */
  list(shard: string): Promise<string[]>
  /** Removes a file that has no block's name, or none that is known. */
  removeStray(shard: string, name: string): Promise<void>
  /** Removes all staged files: those of a process that is gone. */
  sweepStaged(): Promise<number>
}

/** Milliseconds in nanoseconds: no time of a file system with a fine clock is a whole number of them, but by chance. */
const COARSE = 1_000_000n

export async function openBlockFiles(dir: string): Promise<BlockFiles> {
  const blocks = join(dir, 'blocks')
  const tmp = join(dir, 'tmp')
  await mkdir(blocks, { recursive: true, mode: 0o700 })
  await mkdir(tmp, { recursive: true, mode: 0o700 })
  let staged = 0

  const pathOf = (cid: Cid): string => join(blocks, shardOf(cid), cid)

  return {
    pathOf,
    async stage(bytes) {
      const path = join(tmp, (staged++).toString(36))
      const fd = fs.openSync(path, 'wx', 0o600)
      try {
        try {
          let done = 0
          // A disk that fills up takes a part first and says so on the next write.
          while (done < bytes.length) done += await writeFd(fd, bytes, done)
        } finally {
          fs.closeSync(fd)
        }
      } catch (error) {
        await unlink(path).catch(ignoreMissing)
        throw error
      }
      return path
    },
    discard: (path) => unlink(path).catch(ignoreMissing),
    async adopt(path, cid) {
      const target = pathOf(cid)
      try {
        fs.renameSync(path, target)
      } catch (error) {
        if (!isMissing(error)) throw error
        await mkdir(join(blocks, shardOf(cid)), { recursive: true, mode: 0o700 })
        fs.renameSync(path, target)
      }
      return stampOf(fs.statSync(target, { bigint: true }))
    },
    open(cid) {
      let fd: number
      try {
        fd = fs.openSync(pathOf(cid), 'r')
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
      // The inode is in memory once the file is open: this waits for no disk, unlike a trip through the thread pool.
      return { fd, stamp: stampOf(fs.fstatSync(fd, { bigint: true })) }
    },
    async read(file, target, cached) {
      let done = cached ? fs.readSync(file.fd, target, 0, target.length, 0) : 0
      while (done < target.length) {
        const count = await readFd(file.fd, target, done)
        if (count === 0) break
        done += count
      }
      return done
    },
    look: (file) => stampOf(fs.fstatSync(file.fd, { bigint: true })),
    close(file) {
      // Nothing was written through it, so closing does no I/O either.
      fs.closeSync(file.fd)
    },
    stamp(cid) {
      const stats = fs.statSync(pathOf(cid), { bigint: true, throwIfNoEntry: false })
      return stats && stampOf(stats)
    },
    remove: (cid) => unlink(pathOf(cid)).catch(ignoreMissing),
    async shards() {
      const entries = await readdir(blocks, { withFileTypes: true })
      return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
    },
    list: (shard) => readdir(join(blocks, shard)),
    removeStray: (shard, name) => unlink(join(blocks, shard, name)).catch(ignoreMissing),
    async sweepStaged() {
      const names = await readdir(tmp)
      for (const name of names) await unlink(join(tmp, name))
      return names.length
    },
  }
}

function stampOf(stats: fs.BigIntStats): Stamp {
  const { ino, size, mtimeNs, ctimeNs } = stats
  const print = ctimeNs % COARSE === 0n ? undefined : `${ino}.${size}.${mtimeNs}.${ctimeNs}`
  return { size: Number(size), print }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT'
}

function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error
}

// Only the bytes go through the thread pool, by plain callbacks: a trip there costs more CPU than what open, rename and close
// do in the kernel's caches, and on a node that is short of CPU each trip waits for its turn.

function writeFd(fd: number, bytes: Uint8Array, from: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.write(fd, bytes, from, bytes.length - from, from, (error, count) =>
      error ? reject(error) : resolve(count),
    )
  })
}

function readFd(fd: number, target: Buffer, from: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.read(fd, target, from, target.length - from, from, (error, count) =>
      error ? reject(error) : resolve(count),
    )
  })
}
