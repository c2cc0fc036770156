import type { Hash } from 'node:crypto'
import { hasherFor } from '../../base/index.ts'
import { type Blocks, isBlockLost } from './blocks.ts'
import type { BufferPool } from './buffers.ts'

/** So long the verifier waits for a reader that is about to load the same block; a slow client may keep it longer. */
const READER_MS = 250

/** Hashes a blob from its first byte to its last as the blocks come, so that the verdict follows the last block at once. */
export interface Verifier {
  /** Blocks hashed so far. */
  readonly position: number
  /** Hands over a block's bytes, valid during the call: spares a read when it is the next one. */
  offer(index: number, bytes: Uint8Array): void
  /** Runs until every block was hashed; true when the digest is the blob's own. */
  run(signal: AbortSignal): Promise<boolean>
}

export function createVerifier(deps: {
  blocks: Blocks
  pool: BufferPool
  /** Reader -> index of the block it waits for or reads next. */
  readers: ReadonlyMap<number, number>
}): Verifier {
  const { blocks, pool, readers } = deps
  let hash: Hash = hasherFor(blocks.digest)
  let position = 0
  let reading = false
  let running = false

  function take(bytes: Uint8Array): void {
    hash.update(bytes)
    position++
  }

  /**
   * A reader will offer the block at `position` soon. Not the last one: readers wait for the verdict with that. And nobody is
   * waited for while another is ahead: its client must not be held up by a slower one.
   */
  function isExpected(): boolean {
    if (blocks.count === undefined || position === blocks.count - 1) return false
    const first = Math.max(...readers.values())
    return first === position || first === position - 1
  }

  async function awaitReader(index: number, signal: AbortSignal): Promise<void> {
    const until = performance.now() + READER_MS
    for (let left = READER_MS; left > 0 && position === index && isExpected(); ) {
      await blocks.bell.wait(signal, left)
      left = until - performance.now()
    }
  }

  async function readNext(signal: AbortSignal): Promise<void> {
    const buffer = pool.take()
    reading = true
    try {
      take(await blocks.read(position, buffer))
    } catch (error) {
      if (!isBlockLost(error)) throw error
      // The store drops it and says so; it is fetched again.
      await blocks.bell.wait(signal, 100)
    } finally {
      reading = false
      pool.give(buffer)
    }
  }

  return {
    get position() {
      return position
    },
    offer(index, bytes) {
      if (running && index === position && !reading) take(bytes)
    },
    async run(signal) {
      hash = hasherFor(blocks.digest)
      position = 0
      running = true
      try {
        while (blocks.count === undefined || position < blocks.count) {
          const at = position
          if (!blocks.has(at)) {
            await blocks.bell.wait(signal)
            continue
          }
          await awaitReader(at, signal)
          // Looked at anew: it may have been offered, or lost, while we waited.
          if (position === at && blocks.has(at)) await readNext(signal)
        }
      } finally {
        running = false
      }
      return `${blocks.digest.split(':')[0]}:${hash.digest('hex')}` === blocks.digest
    },
  }
}
