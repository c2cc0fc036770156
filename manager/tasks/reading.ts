import { ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { type Blocks, isBlockLost } from './blocks.ts'
import type { BufferPool } from './buffers.ts'

/** What a reader needs of its task. */
export interface Readable {
  blocks: Blocks
  pool: BufferPool
  /** The whole digest was checked and is right. */
  isVerified: () => boolean
  /** Why the task ended without success, if it did. */
  failure: () => Error | undefined
  /** The index that a reader waits for or will read next; undefined when it ends. */
  onPosition: (reader: number, index: number | undefined) => void
  /** Blocks that proved wrong so far. A reader that was given one of them before must not come to a good end. */
  replaced: () => readonly number[]
  /** A block that was here is not any more: fetch it again. */
  onLost: () => void
}

/**
 * A blob's bytes in order, at the pace of who reads: two buffers a reader, whatever its speed. The last block waits for
 * the verdict on the whole blob.
 */
export async function* readBlob(
  task: Readable,
  reader: number,
  range: { start: number; end: number | undefined },
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { pool } = task
  const buffers: [Buffer, Buffer] = [pool.take(), pool.take()]
  const before = task.replaced().length
  const first = Math.floor(range.start / BLOCK_SIZE)
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  let index = first
  let ahead: Promise<Uint8Array | undefined> = Promise.resolve(undefined)

  const wanted = (i: number): boolean => range.end === undefined || i * BLOCK_SIZE < range.end

  function load(i: number): Promise<Uint8Array | undefined> {
    const loaded = wanted(i)
      ? loadBlock(task, i, buffers[i % 2 === 0 ? 0 : 1], either)
      : Promise.resolve(undefined)
    // It is awaited one turn later; until then a failure must not count as unhandled.
    loaded.catch(() => {})
    return loaded
  }

  try {
    task.onPosition(reader, index)
    ahead = load(index)
    for (;;) {
      const bytes = await ahead
      if (!bytes) return
      if (task.replaced().some((wrong, i) => i >= before && wrong >= first && wrong <= index)) {
        throw new ShoalError('DIGEST_MISMATCH', 'bytes that were given out before proved wrong')
      }
      const offset = index * BLOCK_SIZE
      const from = Math.max(0, range.start - offset)
      const to = range.end === undefined ? bytes.byteLength : Math.min(bytes.byteLength, range.end - offset)
      index++
      if (wanted(index)) task.onPosition(reader, index)
      ahead = load(index)
      if (to > from) yield bytes.subarray(from, to)
    }
  } finally {
    stop.abort(new DOMException('the reader ended', 'AbortError'))
    task.onPosition(reader, undefined)
    await ahead.catch(() => {})
    for (const buffer of buffers) pool.give(buffer)
  }
}

/** Undefined past the blob's end. */
async function loadBlock(
  task: Readable,
  index: number,
  into: Buffer,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  const { blocks } = task
  for (;;) {
    signal.throwIfAborted()
    if (blocks.count !== undefined && index >= blocks.count) return undefined
    const isLast = blocks.count === undefined ? blocks.reach <= index + 1 : index === blocks.count - 1
    if (blocks.has(index) && (!isLast || task.isVerified())) {
      try {
        return await blocks.read(index, into)
      } catch (error) {
        if (!isBlockLost(error)) throw error
        task.onLost()
      }
    }
    const failure = task.failure()
    if (failure) throw failure
    await blocks.bell.wait(signal, 1000)
  }
}
