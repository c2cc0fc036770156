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
  /** A block was read; `bytes` are valid during the call. */
  onRead: (index: number, bytes: Uint8Array) => void
  /** Blocks that proved wrong so far. A reader that was given one of them before must not come to a good end. */
  replaced: () => readonly number[]
  /** A block that was here is not any more: fetch it again. */
  onLost: () => void
}

/**
 * A blob's bytes in order, at the pace of who reads: two blocks a reader in memory at most, whatever its speed, and none
 * while it waits. The last block waits for the verdict on the whole blob.
 */
export async function* readBlob(
  task: Readable,
  reader: number,
  range: { start: number; end: number | undefined },
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { pool } = task
  const before = task.replaced().length
  const first = Math.floor(range.start / BLOCK_SIZE)
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  let index = first
  let ahead: Promise<Loaded | undefined> = Promise.resolve(undefined)
  let current: Loaded | undefined

  const wanted = (i: number): boolean => range.end === undefined || i * BLOCK_SIZE < range.end

  function load(i: number): Promise<Loaded | undefined> {
    const loaded = wanted(i) ? loadBlock(task, i, either) : Promise.resolve(undefined)
    // It is awaited one turn later; until then a failure must not count as unhandled.
    loaded.catch(() => {})
    return loaded
  }

  try {
    task.onPosition(reader, index)
    ahead = load(index)
    for (;;) {
      current = await ahead
      if (!current) return
      const { bytes } = current
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
      pool.give(current.buffer)
      current = undefined
    }
  } finally {
    stop.abort(new DOMException('the reader ended', 'AbortError'))
    task.onPosition(reader, undefined)
    const next = await ahead.catch(() => undefined)
    for (const loaded of new Set([current, next])) if (loaded) pool.give(loaded.buffer)
  }
}

/** A block and the buffer that it is in, which goes back to the pool. */
interface Loaded {
  bytes: Uint8Array
  buffer: Buffer
}

/** Undefined past the blob's end. */
async function loadBlock(task: Readable, index: number, signal: AbortSignal): Promise<Loaded | undefined> {
  const { blocks, pool } = task
  for (;;) {
    signal.throwIfAborted()
    if (blocks.count !== undefined && index >= blocks.count) return undefined
    const isLast = blocks.count === undefined ? blocks.reach <= index + 1 : index === blocks.count - 1
    if (blocks.has(index) && (!isLast || task.isVerified())) {
      const buffer = pool.take()
      try {
        const bytes = await blocks.read(index, buffer)
        task.onRead(index, bytes)
        return { bytes, buffer }
      } catch (error) {
        pool.give(buffer)
        if (!isBlockLost(error)) throw error
        task.onLost()
      }
    }
    const failure = task.failure()
    if (failure) throw failure
    await blocks.bell.wait(signal, 1000)
  }
}
