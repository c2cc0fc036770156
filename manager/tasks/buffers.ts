import { BLOCK_SIZE } from '../../blockstore/index.ts'

/**
 * Block-sized buffers for reuse. Fresh ones for every block would be garbage at the rate of the network, and the
 * collector frees memory outside of its heap late; a node of 1 GB cannot wait for that.
 * A buffer has one owner at a time: who took it gives it back when nothing can write to it or read from it any more.
 */
export interface BufferPool {
  take(): Buffer
  give(buffer: Buffer): void
}

/** @param keep how many idle buffers are kept */
export function createBufferPool({ keep }: { keep: number }): BufferPool {
  const idle: Buffer[] = []
  return {
    take: () => idle.pop() ?? Buffer.allocUnsafeSlow(BLOCK_SIZE),
    give(buffer) {
      if (idle.length < keep && buffer.byteLength === BLOCK_SIZE) idle.push(buffer)
    },
  }
}
