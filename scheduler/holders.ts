import { countBits } from './bits.ts'
import type { PeerId, ReleaseReason } from './types.ts'

/** What the coordinator knows of a node that asked for, or told of, the blob. */
export interface Holder {
  readonly peer: PeerId
  have: Uint8Array
  /** Set bits of `have`. */
  count: number
  pulling: boolean
  /** Bytes a second from upstream as the node measured it, 0 if it does not know, undefined if it cannot seed. */
  seedRate: number | undefined
  /** Bytes a second from upstream as its reports show it; 0 before the first. */
  seenRate: number
  size: number | undefined
  heardAt: number
  retryMs: number
  /** What upstream last answered it, until when it is not asked to try again, and how often in a row that was. */
  refused: { reason: ReleaseReason; detail?: string; until: number; times: number } | undefined
  /** It let a lease lapse; until then others come first. */
  lapsedUntil: number
  lapses: number
  /** Whom it was told to talk to in a large site. */
  neighbours: Set<Holder>
}

/** The nodes of one blob, and how many hold each block. */
export interface Holders {
  get(peer: PeerId): Holder | undefined
  /** The peer's entry, made if there is none. */
  of(peer: PeerId, now: number): Holder
  /** Replaces what the peer has; `gained` and `lost` hear of blocks that got their first or lost their last holder. */
  setHave(holder: Holder, have: Uint8Array): void
  delete(peer: PeerId): void
  /** How many peers hold the block. */
  held(index: number): number
  /** Blocks below `end` that somebody holds. */
  heldBelow(end: number): number
  readonly list: readonly Holder[]
}

export function createHolders(events: {
  gained: (index: number, by: Holder) => void
  lost: (index: number) => void
}): Holders {
  const byPeer = new Map<PeerId, Holder>()
  const list: Holder[] = []
  let counts = new Uint32Array(64)
  let distinct = 0
  let highest = -1

  function change(index: number, step: 1 | -1, by: Holder): void {
    if (index >= counts.length) {
      const larger = new Uint32Array(Math.max(index + 1, counts.length * 2))
      larger.set(counts)
      counts = larger
    }
    if (index > highest) highest = index
    const now = counts[index]! + step
    counts[index] = now
    if (step === 1 && now === 1) {
      distinct++
      events.gained(index, by)
    } else if (step === -1 && now === 0) {
      distinct--
      events.lost(index)
    }
  }

  function setHave(holder: Holder, have: Uint8Array): void {
    const old = holder.have
    holder.have = have
    const length = Math.max(old.length, have.length)
    for (let i = 0; i < length; i++) {
      const before = old[i] ?? 0
      const after = have[i] ?? 0
      if (before === after) continue
      for (let bit = 0; bit < 8; bit++) {
        const changed = (after >> bit) & 1
        if (changed !== ((before >> bit) & 1)) change(i * 8 + bit, changed === 1 ? 1 : -1, holder)
      }
    }
    holder.count = countBits(have)
  }

  return {
    list,
    get: (peer) => byPeer.get(peer),
    of(peer, now) {
      let holder = byPeer.get(peer)
      if (holder === undefined) {
        holder = {
          peer,
          have: new Uint8Array(0),
          count: 0,
          pulling: false,
          seedRate: undefined,
          seenRate: 0,
          size: undefined,
          heardAt: now,
          retryMs: 0,
          refused: undefined,
          lapsedUntil: 0,
          lapses: 0,
          neighbours: new Set(),
        }
        byPeer.set(peer, holder)
        list.push(holder)
      }
      return holder
    },
    setHave,
    delete(peer) {
      const holder = byPeer.get(peer)
      if (holder === undefined) return
      setHave(holder, new Uint8Array(0))
      for (const other of holder.neighbours) other.neighbours.delete(holder)
      byPeer.delete(peer)
      list.splice(list.indexOf(holder), 1)
    },
    held: (index) => counts[index] ?? 0,
    heldBelow(end) {
      if (end > highest) return distinct
      let held = 0
      for (let i = 0; i < end; i++) if (counts[i] !== 0) held++
      return held
    },
  }
}
