import { BLOCK_SIZE } from '../../blockstore/index.ts'

/**
 * Cuts a stream that begins at block `first` into blocks, in the one buffer given. `take` has the bytes until its promise settles;
 * the last block may be shorter. Resolves to the number of the bytes.
 */
export async function eachBlock(
  body: AsyncIterable<Uint8Array>,
  buffer: Buffer,
  first: number,
  take: (index: number, bytes: Buffer) => Promise<void>,
): Promise<number> {
  let index = first
  let filled = 0
  let total = 0
  for await (const chunk of body) {
    total += chunk.byteLength
    for (let at = 0; at < chunk.byteLength; ) {
      const part = Math.min(chunk.byteLength - at, BLOCK_SIZE - filled)
      buffer.set(chunk.subarray(at, at + part), filled)
      at += part
      filled += part
      if (filled < BLOCK_SIZE) continue
      await take(index++, buffer)
      filled = 0
    }
  }
  if (filled > 0) await take(index, buffer.subarray(0, filled))
  return total
}
