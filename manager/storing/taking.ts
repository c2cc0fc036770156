import { type Digest, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore } from '../../blockstore/index.ts'
import { bitfield, bitIndexes, hasBit, setBit } from '../../scheduler/index.ts'
import { type Blocks, type BufferPool, createBlocks, readMap, type Signer } from '../tasks/index.ts'
import type { Exchange, Rpc } from '../types.ts'
import { createBucket } from '../wire/index.ts'
import { common, isEmpty, union, without } from './bits.ts'
import type { Holding, TakeRequest } from './messages.ts'

/** Blocks on their way to this node at a time, of all blobs. */
const AT_ONCE = 4
/** Places that are marked in one go: what had to be copied for them is not undone by the next that finds no room. */
const KEEP_AT_ONCE = 64
/** A request is answered after so long whether all came or not; who asked goes on from there. */
export const TAKE_MS = 20_000
const STALL_MS = 4000
const MAP_MS = 3000

/** This node's share of stored blobs: the one place where it grows and shrinks. */
export interface Taking {
  holding(digest: Digest): Promise<Holding>
  /**
   * Keeps these blocks too, and fetches what is not here of them, as much as comes in time.
   * @throws STORE_FULL | PROTOCOL where the blob is known here with another size
   */
  take(request: TakeRequest, signal: AbortSignal): Promise<Holding>
  /** Keeps these no longer: they are cache now, and may be wanted again when a node comes back. */
  release(digest: Digest, drop: Uint8Array): Promise<Holding>
  /** Keeps nothing of the blob. */
  forget(digest: Digest): Promise<void>
  close(): void
}

export function createTaking(deps: {
  store: BlockStore
  signer: Signer
  rpc: Rpc
  exchange: Exchange
  pool: BufferPool
  /** Bytes a second of what nobody waits for; undefined: no limit. */
  repairRate: number | undefined
  /** More of the blob is here and is to be found by others. */
  onShare: (digest: Digest) => void
  onBytes: (count: number) => void
  log: Log
}): Taking {
  const { store, signer, rpc, exchange, pool, log } = deps
  const bucket = createBucket({ rate: deps.repairRate })
  const closing = new AbortController()
  const locks = new Map<Digest, Promise<unknown>>()
  const waiting: (() => void)[] = []
  let free = AT_ONCE

  /** The kept set is read and written as one. */
  function locked<T>(digest: Digest, action: () => Promise<T>): Promise<T> {
    const turn = (locks.get(digest) ?? Promise.resolve()).then(action, action)
    const settled = turn
      .catch(() => {})
      .finally(() => {
        if (locks.get(digest) === settled) locks.delete(digest)
      })
    locks.set(digest, settled)
    return turn
  }

  async function slot<T>(action: () => Promise<T>): Promise<T> {
    if (free > 0) free--
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await action()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else free++
    }
  }

  async function holding(digest: Digest): Promise<Holding> {
    const segments = await store.segments(digest)
    const named = segments.filter((s) => s.offset % BLOCK_SIZE === 0 && s.seeder && s.signature)
    return { here: fieldOf(named.map((s) => s.offset)), kept: fieldOf(await store.kept(digest)) }
  }

  async function keep(digest: Digest, change: (kept: Uint8Array) => Uint8Array): Promise<void> {
    await locked(digest, async () => {
      const kept = fieldOf(await store.kept(digest))
      const wanted = change(kept)
      if (isEmpty(without(wanted, kept)) && isEmpty(without(kept, wanted))) return
      await store.keep(
        digest,
        bitIndexes(wanted).map((index) => index * BLOCK_SIZE),
      )
    })
  }

  /** Learns the names of the blocks that are wanted from those who have them. */
  async function learn(blocks: Blocks, wanted: Uint8Array, request: TakeRequest, signal: AbortSignal) {
    for (const { peer, here } of request.sources) {
      const unnamed = bitIndexes(common(wanted, here)).filter((index) => !blocks.cut(index))
      let from = unnamed[0]
      const last = unnamed.at(-1)
      while (from !== undefined && last !== undefined && from <= last && !signal.aborted) {
        try {
          const body = { digest: blocks.digest, from }
          const page = readMap(await rpc.request(peer, 'map', body, { timeoutMs: MAP_MS, signal }))
          blocks.learn(page.cuts)
          from = page.next !== undefined && page.next > from ? page.next : undefined
        } catch (error) {
          log.debug({ peer, error: String(error) }, 'asking for a block map failed')
          from = undefined
        }
      }
    }
  }

  async function fetch(blocks: Blocks, index: number, request: TakeRequest, signal: AbortSignal) {
    const cut = blocks.cut(index)
    if (!cut) return
    const able = request.sources.filter(({ here }) => hasBit(here, index))
    const first = able.length > 0 ? index % able.length : 0
    for (const { peer } of [...able.slice(first), ...able.slice(0, first)]) {
      if (signal.aborted) return
      const buffer = pool.take()
      try {
        const options = { length: cut.length, priority: 'preheat' as const, signal, stallMs: STALL_MS }
        const bytes = await exchange.fetch(peer, cut.cid, { ...options, into: () => buffer })
        if (await blocks.acceptFromPeer(cut, bytes)) deps.onBytes(bytes.byteLength)
        return
      } catch (error) {
        if (isShoalError(error, 'STORE_FULL')) throw error
        log.debug({ digest: blocks.digest, index, peer, error: String(error) }, 'a block was not taken')
      } finally {
        pool.give(buffer)
      }
    }
  }

  async function pace(bytes: number, signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      if (bucket.take(bytes, 'preheat', resolve)) return resolve()
      signal.addEventListener(
        'abort',
        () => {
          bucket.withdraw(resolve)
          resolve()
        },
        { once: true },
      )
    })
  }

  async function take(request: TakeRequest, outer: AbortSignal): Promise<Holding> {
    const { digest, size, mediaType } = request.blob
    const signal = AbortSignal.any([outer, closing.signal, AbortSignal.timeout(TAKE_MS)])
    const letGo = store.hold(digest)
    try {
      const known = (await store.blob(digest))?.size
      if (known !== undefined && known !== size)
        throw new ShoalError('PROTOCOL', `${digest} has ${known} bytes here, not ${size}`)
      await store.describe(digest, { size, ...(mediaType === undefined ? {} : { mediaType }) })
      // In parts, as what lies in a borrowed file is copied first.
      const wanted = bitIndexes(request.keep)
      for (let at = 0; at < wanted.length && !signal.aborted; at += KEEP_AT_ONCE) {
        const part = bitfield((wanted.at(-1) ?? 0) + 1)
        for (const index of wanted.slice(at, at + KEEP_AT_ONCE)) setBit(part, index)
        await keep(digest, (kept) => union(kept, part))
      }
      const blocks = await createBlocks({ digest, store, signer, log })
      const missing = without(request.keep, blocks.bits())
      if (isEmpty(missing)) return await holding(digest)
      await learn(blocks, missing, request, signal)
      let full: unknown
      const one = async (index: number): Promise<void> => {
        if (full || signal.aborted) return
        if (request.paced) await pace(blocks.lengthOf(index), signal)
        if (signal.aborted) return
        await fetch(blocks, index, request, signal).catch((error: unknown) => {
          full = error
        })
      }
      await Promise.all(bitIndexes(missing).map((index) => slot(() => one(index))))
      deps.onShare(digest)
      if (full) throw full
      return await holding(digest)
    } finally {
      letGo()
    }
  }

  async function release(digest: Digest, drop: Uint8Array): Promise<Holding> {
    await keep(digest, (kept) => without(kept, drop))
    return holding(digest)
  }

  return {
    holding,
    take,
    release,
    async forget(digest) {
      await keep(digest, () => bitfield(0))
    },
    close() {
      closing.abort()
      bucket.close()
    },
  }
}

function fieldOf(offsets: readonly number[]): Uint8Array {
  const field = bitfield((offsets.at(-1) ?? -BLOCK_SIZE) / BLOCK_SIZE + 1)
  for (const offset of offsets) setBit(field, offset / BLOCK_SIZE)
  return field
}
