import fs from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { type Digest, errnoOf, hasherFor } from '../base/index.ts'
import { cidOf } from './cid.ts'
import { throwIfAborted } from './faults.ts'
import { type BlockFiles, type FileRange, type OpenFile, type Stamp, stampOf } from './files.ts'
import { BLOCK_SIZE, type Cid } from './types.ts'

/** Errors that are this process's trouble, and say nothing of the file. */
const OURS = new Set(['EMFILE', 'ENFILE', 'ENOMEM'])

/** Undefined when the file is not there, is no regular file or may not be read: whose it is decides that. */
export function openForeign(range: FileRange): OpenFile | undefined {
  return ifReadable(() => {
    // Without O_NONBLOCK, opening a pipe in its place would wait for a writer.
    const fd = fs.openSync(range.path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    const stats = fs.fstatSync(fd, { bigint: true })
    if (stats.isFile()) return { fd, stamp: stampOf(stats, range), range }
    fs.closeSync(fd)
    return undefined
  })
}

export function stampForeign(range: FileRange): Stamp | undefined {
  return ifReadable(() => {
    const stats = fs.statSync(range.path, { bigint: true })
    return stats.isFile() ? stampOf(stats, range) : undefined
  })
}

function ifReadable<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (OURS.has(errnoOf(error) ?? '')) throw error
    return undefined
  }
}

/** Not verified. Undefined when the file is not there, or has less. */
export async function readForeign(range: FileRange, files: BlockFiles): Promise<Buffer | undefined> {
  const file = openForeign(range)
  if (file === undefined) return undefined
  try {
    const bytes = Buffer.allocUnsafe(range.size)
    return (await files.read(file, bytes, false)) < range.size ? undefined : bytes
  } finally {
    files.close(file)
  }
}

/** A file and the blocks that it is made of. */
export interface Cuts {
  path: string
  size: number
  /** What it looked like while it was read: the `print` of its stamp. */
  print: string | undefined
  cids: Cid[]
}

/**
 * Reads a file once, a block at a time, and cuts it. Undefined when its bytes are not the blob's, or it changed while it was read.
 * @param known what the blob is known to be cut into: the whole digest need not be computed then
 */
export async function cutFile(
  path: string,
  {
    digest,
    files,
    known,
    bytesPerSecond = Number.POSITIVE_INFINITY,
    signal,
  }: {
    digest: Digest
    files: BlockFiles
    known: Cid[] | undefined
    bytesPerSecond: number | undefined
    signal: AbortSignal
  },
): Promise<Cuts | undefined> {
  const whole = { path, at: 0, size: Number.MAX_SAFE_INTEGER }
  const file = openForeign(whole)
  if (file === undefined) return undefined
  try {
    const { size, print } = file.stamp
    const cids: Cid[] = []
    const buffer = Buffer.allocUnsafe(Math.min(size, BLOCK_SIZE))
    const hash = known ? undefined : hasherFor(digest)
    const startedAt = performance.now()
    for (let at = 0; at < size; at += BLOCK_SIZE) {
      throwIfAborted(signal)
      const part = { path, at, size: Math.min(BLOCK_SIZE, size - at) }
      const bytes = buffer.subarray(0, part.size)
      if ((await files.read({ ...file, range: part }, bytes, false)) < part.size) return undefined
      // On this thread: the pool would copy every block, and this is read slowly, to cost little.
      cids.push(cidOf(bytes))
      hash?.update(bytes)
      if (known && known[cids.length - 1] !== cids.at(-1)) return undefined
      const early = ((at + part.size) / bytesPerSecond) * 1000 - (performance.now() - startedAt)
      if (early > 0) await delay(early, undefined, { signal }).catch(() => {})
    }
    throwIfAborted(signal)
    if (known ? known.length !== cids.length : hash?.digest('hex') !== digest.slice(digest.indexOf(':') + 1))
      return undefined
    const now = stampForeign(whole)
    return now?.print === print && now?.size === size ? { path, size, print, cids } : undefined
  } finally {
    files.close(file)
  }
}
