import type { Log } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { bitfield, bitIndexes, clearBit, countBits, fullBitfield } from '../../scheduler/index.ts'
import type { PeerId } from '../types.ts'
import { common, isEmpty, union, without } from './bits.ts'
import type { Holding } from './messages.ts'
import type { Peers } from './peers.ts'
import type { Repaired, StoredBlob } from './types.ts'

/** Without a new block in so many answers, a node is given up for now. */
const TRIES = 3

export interface Spread extends Repaired {
  /** Every block is kept, and on disk, on every node that is to have it. */
  whole: boolean
  /** Something is missing that may come without anything else happening: not only what nodes that are away are to have. */
  open: boolean
  /** The first thing that went wrong, where something did. */
  error?: unknown
}

/**
 * Makes a blob's blocks be where they belong. First those who lack some get them; only what all its new holders have
 * confirmed, as many as there are to be copies, may be given up by another: whoever knows few nodes must not thin out what
 * the others keep. Whatever is interrupted can be done again.
 */
export async function spread(options: {
  blob: StoredBlob & { copies: number }
  /** Who is to keep which blocks, the nodes that are away included. */
  shares: ReadonlyMap<PeerId, Uint8Array>
  /** What the nodes that are there have; kept up to date. */
  holdings: Map<PeerId, Holding>
  peers: Peers
  /** What is kept elsewhere is given up. */
  release: boolean
  paced: boolean
  onBytes?: (bytes: number) => void
  log: Log
  signal: AbortSignal
}): Promise<Spread> {
  const { blob, shares, holdings, peers, log, signal } = options
  const all = fullBitfield(Math.ceil(blob.size / BLOCK_SIZE))
  const result: Spread = { copied: 0, bytes: 0, lost: 0, whole: true, open: false }

  const lacks = (peer: PeerId, share: Uint8Array): Uint8Array => {
    const has = holdings.get(peer)
    return has ? without(share, common(has.here, has.kept)) : share
  }

  async function supply(peer: PeerId, share: Uint8Array): Promise<void> {
    for (let vain = 0; vain < TRIES; ) {
      const before = holdings.get(peer)
      const lacking = countBits(lacks(peer, share))
      if (!before || lacking === 0) return
      const sources = [...holdings]
        .filter(([other, { here }]) => other !== peer && !isEmpty(common(here, without(share, before.here))))
        .map(([other, { here }]) => ({ peer: other, here: common(here, share) }))
      try {
        const after = await peers.take(peer, { blob, keep: share, sources, paced: options.paced }, signal)
        holdings.set(peer, after)
        const came = bitIndexes(common(without(after.here, before.here), share))
        const bytes = came.reduce((sum, index) => sum + lengthOf(blob.size, index), 0)
        result.copied += came.length
        result.bytes += bytes
        options.onBytes?.(bytes)
        if (countBits(lacks(peer, share)) >= lacking) vain++
      } catch (error) {
        signal.throwIfAborted()
        log.warn(
          { peer, digest: blob.digest, error: String(error) },
          'a node did not take its share of a blob',
        )
        result.error ??= error
        return
      }
    }
  }

  await Promise.all([...shares].map(([peer, share]) => supply(peer, share)))

  let confirmed = all
  const keepers = new Uint32Array(Math.ceil(blob.size / BLOCK_SIZE))
  for (const [peer, share] of shares) {
    const lacking = lacks(peer, share)
    confirmed = without(confirmed, lacking)
    for (const index of bitIndexes(share)) keepers[index]!++
    if (holdings.has(peer) && !isEmpty(lacking)) result.open = true
  }
  result.whole = isEmpty(without(all, confirmed))
  const found = [...holdings.values()].reduce((sum, { here }) => union(sum, here), bitfield(0))
  result.lost = countBits(without(all, found))

  if (options.release) {
    for (const [index, count] of keepers.entries()) if (count < blob.copies) clearBit(confirmed, index)
    for (const [peer, { kept }] of holdings) {
      const drop = without(common(kept, confirmed), shares.get(peer) ?? bitfield(0))
      if (isEmpty(drop)) continue
      try {
        holdings.set(peer, await peers.release(peer, blob.digest, drop, signal))
      } catch (error) {
        log.debug({ peer, digest: blob.digest, error: String(error) }, 'a share was not given up')
      }
    }
  }
  return result
}

export function lengthOf(size: number, index: number): number {
  return Math.max(0, Math.min(BLOCK_SIZE, size - index * BLOCK_SIZE))
}
