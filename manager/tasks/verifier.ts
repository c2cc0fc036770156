import type { Hash } from 'node:crypto'
import { hasherFor } from '../../base/index.ts'
import { type Blocks, isBlockLost } from './blocks.ts'
import type { BufferPool } from './buffers.ts'

/** Hashes a blob from its first byte to its last as the blocks come, so that the verdict follows the last block at once. */
export interface Verifier {
  /** Blocks hashed so far. */
  readonly position: number
  /** Hands over a block that was just stored, which spares a read when it is the next one. */
  offer(index: number, bytes: Uint8Array): void
  /** Runs until every block was hashed; true when the digest is the blob's own. */
  run(signal: AbortSignal): Promise<boolean>
}

export function createVerifier({ blocks, pool }: { blocks: Blocks; pool: BufferPool }): Verifier {
  let hash: Hash = hasherFor(blocks.digest)
  let position = 0
  let reading = false

  function take(bytes: Uint8Array): void {
    hash.update(bytes)
    position++
  }

  return {
    get position() {
      return position
    },
    offer(index, bytes) {
      if (index === position && !reading) take(bytes)
    },
    async run(signal) {
      const buffer = pool.take()
      hash = hasherFor(blocks.digest)
      position = 0
      try {
        while (blocks.count === undefined || position < blocks.count) {
          if (!blocks.has(position)) {
            await blocks.bell.wait(signal)
            continue
          }
          reading = true
          try {
            take(await blocks.read(position, buffer))
          } catch (error) {
            if (!isBlockLost(error)) throw error
            // The store drops it and says so; it is fetched again.
            await blocks.bell.wait(signal, 100)
          } finally {
            reading = false
          }
        }
      } finally {
        pool.give(buffer)
      }
      return `${blocks.digest.split(':')[0]}:${hash.digest('hex')}` === blocks.digest
    },
  }
}
