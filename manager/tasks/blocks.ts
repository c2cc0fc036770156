import type { Digest, Log } from '../../base/index.ts'
import { isShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore } from '../../blockstore/index.ts'
import { type Cut, clearBit, hasBit, setBit } from '../../scheduler/index.ts'
import { type Bell, createBell } from './bell.ts'
import { isCutSigned, type Signer, signCut } from './cuts.ts'

/** What this node has and knows of one blob; the only writer of it to the store. */
export interface Blocks {
  readonly digest: Digest
  readonly size: number | undefined
  readonly mediaType: string | undefined
  /** Number of blocks, once the size is known. */
  readonly count: number | undefined
  /** Bytes here. */
  readonly bytesHere: number
  readonly missing: number | undefined
  /** One past the highest block that is here: tells that a block below it is not the blob's last. */
  readonly reach: number
  /** Rings whenever a block came or went, a cut or the size became known. */
  readonly bell: Bell
  /** Bitfield of what is on the disk, of the right length for messages. */
  bits(): Uint8Array
  has(index: number): boolean
  lengthOf(index: number): number
  cut(index: number): Cut | undefined
  /** Cuts from `from` on, at most `limit`, ordered. */
  cuts(from?: number, limit?: number): Cut[]
  describe(facts: { size?: number; mediaType?: string }): Promise<void>
  /** Takes over cuts that are signed and new; returns their indexes. A cut that is known already is never replaced. */
  learn(cuts: readonly Cut[]): number[]
  /** Stores a block that a peer sent, against its cut; false when it was here by then. @throws BLOCK_MISMATCH | STORE_FULL */
  acceptFromPeer(cut: Cut, bytes: Uint8Array): Promise<boolean>
  /** Stores and signs a block cut from upstream's bytes. @throws STORE_FULL */
  acceptFromUpstream(index: number, bytes: Uint8Array): Promise<Cut>
  /** Holds a block in memory only, for a disk that is full; `release` lets it go. */
  keepInMemory(cut: Cut, bytes: Uint8Array): void
  release(index: number): void
  readonly inMemory: number
  /** Verified bytes of a block that `has`; in `into` unless it is held in memory. Takes no signal: while it runs, `into` is in use. */
  read(index: number, into: Buffer): Promise<Uint8Array>
  /** Forgets a block and its cut: it proved wrong. */
  reject(index: number): Promise<void>
  /** The store lost these (evicted, corrupt): they are to be fetched again. */
  lost(offsets: readonly number[]): number[]
}

/** Loads what the store has of the blob. */
export async function createBlocks(deps: {
  digest: Digest
  store: BlockStore
  signer: Signer
  log: Log
}): Promise<Blocks> {
  const { digest, store, signer } = deps
  const bell = createBell()
  const known = await store.blob(digest)
  let size = known?.size
  let mediaType = known?.mediaType
  let bits = new Uint8Array(size === undefined ? 8 : Math.ceil(Math.ceil(size / BLOCK_SIZE) / 8))
  let here = 0
  let bytesHere = 0
  let reach = 0
  const cuts = new Map<number, Cut>()
  const memory = new Map<number, Buffer>()
  /** CIDs that proved wrong: whoever still has the block will offer it again. */
  const wrong = new Set<string>()

  const countOf = (): number | undefined => (size === undefined ? undefined : Math.ceil(size / BLOCK_SIZE))
  const lengthOf = (index: number): number => {
    if (size === undefined) return cuts.get(index)?.length ?? BLOCK_SIZE
    return Math.max(0, Math.min(BLOCK_SIZE, size - index * BLOCK_SIZE))
  }
  const fits = (cut: Cut): boolean => {
    if (size === undefined) return cut.length > 0 && cut.length <= BLOCK_SIZE
    return cut.index < (countOf() ?? 0) && cut.length === lengthOf(cut.index)
  }
  const has = (index: number): boolean => hasBit(bits, index) || memory.has(index)

  function mark(index: number, length: number): boolean {
    if (index >> 3 >= bits.length) {
      const grown = new Uint8Array(Math.max(bits.length * 2, (index >> 3) + 1))
      grown.set(bits)
      bits = grown
    }
    if (hasBit(bits, index)) return false
    setBit(bits, index)
    here++
    bytesHere += length
    reach = Math.max(reach, index + 1)
    return true
  }

  for (const segment of await store.segments(digest)) {
    if (segment.offset % BLOCK_SIZE !== 0 || !segment.seeder || !segment.signature) continue
    const index = segment.offset / BLOCK_SIZE
    const { cid, length, seeder, signature } = segment
    cuts.set(index, { index, cid, length, seeder, signature })
    mark(index, length)
  }

  const blocks: Blocks = {
    digest,
    bell,
    get size() {
      return size
    },
    get mediaType() {
      return mediaType
    },
    get count() {
      return countOf()
    },
    get bytesHere() {
      return bytesHere
    },
    get missing() {
      const count = countOf()
      return count === undefined ? undefined : count - here
    },
    get reach() {
      return reach
    },
    get inMemory() {
      return memory.size
    },
    bits() {
      const count = countOf() ?? reach
      return bits.slice(0, Math.ceil(count / 8))
    },
    has,
    lengthOf,
    cut: (index) => cuts.get(index),
    cuts(from = 0, limit = Infinity) {
      const found = [...cuts.values()].filter((cut) => cut.index >= from).sort((a, b) => a.index - b.index)
      return found.length > limit ? found.slice(0, limit) : found
    },
    async describe(facts) {
      const fresh: { size?: number; mediaType?: string } = {}
      if (facts.size !== undefined && size === undefined) fresh.size = size = facts.size
      if (facts.mediaType !== undefined && mediaType === undefined) {
        fresh.mediaType = mediaType = facts.mediaType
      }
      if (Object.keys(fresh).length === 0) return
      bell.ring()
      await store.describe(digest, fresh)
    },
    learn(offered) {
      const fresh: number[] = []
      for (const cut of offered) {
        if (cuts.has(cut.index) || wrong.has(cut.cid) || !fits(cut)) continue
        if (!isCutSigned(signer, digest, cut)) {
          deps.log.warn(
            { digest, index: cut.index, seeder: cut.seeder },
            'cut with a wrong signature ignored',
          )
          continue
        }
        cuts.set(cut.index, cut)
        fresh.push(cut.index)
      }
      if (fresh.length > 0) bell.ring()
      return fresh
    },
    async acceptFromPeer(cut, bytes) {
      const { seeder, signature } = cut
      const segment = { offset: cut.index * BLOCK_SIZE, expect: cut.cid, seeder, signature }
      await store.putSegment(digest, segment, bytes)
      const fresh = mark(cut.index, bytes.byteLength)
      bell.ring()
      return fresh
    },
    async acceptFromUpstream(index, bytes) {
      let cut: Cut | undefined
      const sign = (cid: string): Cut => {
        cut = signCut(signer, digest, { index, cid, length: bytes.byteLength })
        return cut
      }
      const cid = await store.putSegment(digest, { offset: index * BLOCK_SIZE, sign }, bytes)
      wrong.delete(cid)
      cut ??= sign(cid)
      cuts.set(index, cut)
      mark(index, bytes.byteLength)
      bell.ring()
      return cut
    },
    keepInMemory(cut, bytes) {
      cuts.set(cut.index, cut)
      memory.set(cut.index, Buffer.from(bytes))
      reach = Math.max(reach, cut.index + 1)
      bell.ring()
    },
    release(index) {
      if (memory.delete(index)) bell.ring()
    },
    async read(index, into) {
      const held = memory.get(index)
      if (held) return held
      const cut = cuts.get(index)
      if (!cut) throw new Error(`block ${index} of ${digest} has no cut`)
      return store.read(cut.cid, { into })
    },
    async reject(index) {
      const cut = cuts.get(index)
      if (cut) wrong.add(cut.cid)
      cuts.delete(index)
      memory.delete(index)
      if (hasBit(bits, index)) await store.dropSegment(digest, index * BLOCK_SIZE)
      this.lost([index * BLOCK_SIZE])
    },
    lost(offsets) {
      const gone: number[] = []
      for (const offset of offsets) {
        const index = offset / BLOCK_SIZE
        if (!Number.isInteger(index) || !hasBit(bits, index)) continue
        clearBit(bits, index)
        here--
        bytesHere -= lengthOf(index)
        gone.push(index)
      }
      if (gone.length > 0) bell.ring()
      return gone
    },
  }
  return blocks
}

/** True for what a read throws when the block is gone from the disk and must be fetched again. */
export function isBlockLost(error: unknown): boolean {
  return isShoalError(error, 'BLOCK_MISSING', 'BLOCK_CORRUPT')
}
