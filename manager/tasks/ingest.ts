import { type Digest, hasherFor, type Log, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore, cidOf } from '../../blockstore/index.ts'
import type { Ingest } from '../types.ts'
import type { Announcer } from './announcer.ts'
import { createBlocks } from './blocks.ts'
import type { Signer } from './cuts.ts'
import { eachBlock } from './cutting.ts'

/** Each holds a block in memory; the others wait. */
const AT_ONCE = 2

/**
 * Takes in blobs that a client brought: cut where everybody cuts, signed by this node as a seeder signs, verified as a whole and
 * announced. See Manager.ingest.
 */
export function createIngest(deps: {
  store: BlockStore
  signer: Signer
  announcer: Pick<Announcer, 'complete'>
  log: Log
}): Ingest {
  const { store, signer, announcer, log } = deps
  let running = 0
  const waiting: (() => void)[] = []
  const last = new Map<Digest, Promise<void>>()

  async function turn<T>(work: () => Promise<T>): Promise<T> {
    if (running >= AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve))
    else running++
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else running--
    }
  }

  async function take(digest: Digest, body: AsyncIterable<Uint8Array>, request: Parameters<Ingest>[0]) {
    const { size, mediaType, signal } = request
    const blocks = await createBlocks({ digest, store, signer, log })
    const hasher = hasherFor(digest)
    const fresh: number[] = []
    try {
      const total = await eachBlock(body, Buffer.allocUnsafeSlow(BLOCK_SIZE), 0, async (index, bytes) => {
        signal.throwIfAborted()
        hasher.update(bytes)
        if (blocks.has(index)) {
          // What a task left was not verified against the blob's digest yet.
          if (blocks.cut(index)?.cid === cidOf(bytes)) return
          await blocks.reject(index)
        }
        await blocks.acceptFromUpstream(index, bytes)
        fresh.push(index)
      })
      if (total !== size || `${digest.split(':')[0]}:${hasher.digest('hex')}` !== digest) {
        throw new ShoalError('DIGEST_MISMATCH', `the bytes are not those of ${digest}`)
      }
    } catch (error) {
      for (const index of fresh) await store.dropSegment(digest, index * BLOCK_SIZE)
      throw error
    }
    await blocks.describe({ size, ...(mediaType === undefined ? {} : { mediaType }) })
    await store.markComplete(digest)
    announcer.complete(digest)
  }

  async function ingest(request: Parameters<Ingest>[0]): Promise<boolean> {
    const { digest, chunks, signal } = request
    if ((await store.blob(digest))?.complete) return false
    const release = store.hold(digest)
    try {
      await turn(async () => {
        signal.throwIfAborted()
        await take(digest, chunks(), request)
      })
      return true
    } finally {
      release()
    }
  }

  /** One body of a digest at a time: one that fails takes its blocks out again, and no other may count on them. */
  return (request) => {
    const { digest } = request
    const turn = (last.get(digest) ?? Promise.resolve()).then(() => ingest(request))
    const ended = turn
      .then(
        () => {},
        () => {},
      )
      .finally(() => {
        if (last.get(digest) === ended) last.delete(digest)
      })
    last.set(digest, ended)
    return turn
  }
}
