import type { Digest } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import {
  balanceWeights,
  bitfield,
  type PlacedBlob,
  type PlacementNode,
  placeBlob,
  rendezvous,
  setBit,
} from '../../scheduler/index.ts'
import type { Membership, PeerId } from '../types.ts'

/** Who keeps what: members that are there, and for a while those that are away. */
export interface Layout {
  /** Nodes of the site that are there, this one included. */
  live(): PeerId[]
  /** The node is there, or is away for less than the delay. */
  counts(peer: PeerId): boolean
  /** Who sees to the copies of a blob. */
  keeperOf(digest: Digest): PeerId
  /** Nodes that count, of those that offer space, with weights that make shares fair. */
  weigh(
    blobs: readonly PlacedBlob[],
    offers: ReadonlyMap<PeerId, number>,
    who: (peer: PeerId) => boolean,
  ): PlacementNode[]
  /** Those that are away now are gone for good. */
  giveUp(): void
  /** Changes whenever who counts or who is there does. */
  state(offers: ReadonlyMap<PeerId, number>): string
  close(): void
}

/** @param leaveAfterMs so long the share of a node that is away stays its own */
export function createLayout(deps: {
  members: Membership
  leaveAfterMs: number
  now?: () => number
}): Layout {
  const { members, leaveAfterMs, now = () => performance.now() } = deps
  const self = members.self.id
  const startedAt = now()
  /** Since when a member is away; -Infinity: given up. Who was never seen is away since this node started. */
  const away = new Map<PeerId, number>()
  let present = new Set<PeerId>()
  let floor = startedAt

  function live(): PeerId[] {
    return members.site().map((member) => member.id)
  }

  function look(): void {
    const here = new Set(live())
    for (const peer of present) if (!here.has(peer)) away.set(peer, now())
    for (const peer of here) away.delete(peer)
    present = here
  }
  look()
  const stop = members.onChange(look)

  const counts = (peer: PeerId): boolean =>
    present.has(peer) || now() - (away.get(peer) ?? floor) < leaveAfterMs

  return {
    live,
    counts,
    keeperOf: (digest) => rendezvous(digest, live())[0] ?? self,
    weigh: (blobs, offers, who) =>
      balanceWeights(
        blobs,
        [...offers].filter(([id]) => who(id)).map(([id, weight]) => ({ id, weight })),
        BLOCK_SIZE,
      ),
    giveUp() {
      floor = Number.NEGATIVE_INFINITY
      for (const peer of away.keys()) away.set(peer, Number.NEGATIVE_INFINITY)
    },
    state: (offers) =>
      [...new Set([...offers.keys(), ...present])]
        .map((id) => `${id} ${counts(id)} ${present.has(id)}`)
        .sort()
        .join(),
    close: stop,
  }
}

/** The blocks of a blob that each node keeps, as bitfields. */
export function sharesOf(blob: PlacedBlob, nodes: readonly PlacementNode[]): Map<PeerId, Uint8Array> {
  const count = Math.ceil(blob.size / BLOCK_SIZE)
  const shares = new Map<PeerId, Uint8Array>()
  for (const [index, keepers] of placeBlob(blob.digest, count, nodes, blob.copies).entries()) {
    for (const id of keepers) {
      const share = shares.get(id) ?? bitfield(count)
      shares.set(id, share)
      setBit(share, index)
    }
  }
  return shares
}
