import { countBits, hasBit } from './bits.ts'
import type { PeerId, ReleaseReason } from './types.ts'

export interface Refused {
  reason: ReleaseReason
  detail?: string
  at: number
  until: number
  times: number
}

/** What the coordinator knows of a node that asked for, or told of, the blob. */
export interface Holder {
  readonly peer: PeerId
  have: Uint8Array
  /** Set bits of `have`, and when they last became more. */
  count: number
  grownAt: number
  /** Bits that it claims, but that nobody could get of it; not counted before the time is past. */
  doubted: { bits: Uint8Array; until: number } | undefined
  pulling: boolean
  /** Bytes a second from upstream as the node measured it, 0 if it does not know, undefined if it cannot seed. */
  seedRate: number | undefined
  /** Bytes a second from upstream as its reports show it; 0 before the first. */
  seenRate: number
  size: number | undefined
  heardAt: number
  retryMs: number
  /** What upstream last answered it, until when it is not asked to try again, and how often in a row that was. */
  refused: Refused | undefined
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
  /** Replaces what the peer has. */
  setHave(holder: Holder, have: Uint8Array, now: number): void
  /** All that the block's holders claim now is not believed for a while, if they are few; but what the asker has is. */
  doubt(index: number, asker: Holder, until: number): void
  /** All claims are believed again: there is nothing better to be had. */
  believe(now: number): void
  delete(peer: PeerId): void
  /** How many peers hold the block. */
  held(index: number): number
  /** When the block got its first holder; -Infinity if it never had one. */
  heldSince(index: number): number
  /** Blocks below `end` that somebody holds. */
  heldBelow(end: number): number
  readonly list: readonly Holder[]
}

/** So many holders of a block cannot all be wrong. */
const FEW = 2
const NEVER = Number.NEGATIVE_INFINITY

/** `gained` hears of every block that a node got, `lost` of those whose last holder went. */
export function createHolders(events: {
  gained: (index: number, by: Holder, first: boolean) => void
  lost: (index: number) => void
}): Holders {
  const byPeer = new Map<PeerId, Holder>()
  const list: Holder[] = []
  let counts = new Uint32Array(8)
  let since = new Float64Array(8).fill(NEVER)
  let distinct = 0
  let highest = -1

  function change(index: number, step: 1 | -1, by: Holder, at: number): void {
    if (index >= counts.length) {
      const length = Math.max(index + 1, counts.length * 2)
      const old = { counts, since }
      counts = new Uint32Array(length)
      since = new Float64Array(length).fill(NEVER)
      counts.set(old.counts)
      since.set(old.since)
    }
    if (index > highest) highest = index
    const now = counts[index]! + step
    counts[index] = now
    if (step === 1) {
      if (now === 1) {
        distinct++
        since[index] = at
      }
      events.gained(index, by, now === 1)
    } else if (now === 0) {
      distinct--
      events.lost(index)
    }
  }

  function setHave(holder: Holder, claimed: Uint8Array, now: number): void {
    let have = claimed
    if (holder.doubted !== undefined) {
      const { bits, until } = holder.doubted
      if (until <= now) holder.doubted = undefined
      else have = claimed.map((byte, at) => byte & ~(bits[at] ?? 0))
    }
    const old = holder.have
    holder.have = have
    const length = Math.max(old.length, have.length)
    for (let i = 0; i < length; i++) {
      const before = old[i] ?? 0
      const after = have[i] ?? 0
      if (before === after) continue
      for (let bit = 0; bit < 8; bit++) {
        const changed = (after >> bit) & 1
        if (changed !== ((before >> bit) & 1)) change(i * 8 + bit, changed === 1 ? 1 : -1, holder, now)
      }
    }
    const count = countBits(have)
    if (count > holder.count) holder.grownAt = now
    holder.count = count
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
          grownAt: now,
          doubted: undefined,
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
    doubt(index, asker, until) {
      const holding = list.filter((holder) => hasBit(holder.have, index))
      if (holding.length > FEW) return
      for (const holder of holding) {
        if (holder === asker) continue
        const bits = holder.have.slice()
        holder.doubted = { bits, until }
        setHave(holder, bits, Number.NEGATIVE_INFINITY)
      }
    },
    believe(now) {
      for (const holder of list) {
        const { doubted } = holder
        if (doubted === undefined) continue
        holder.doubted = undefined
        const { bits } = doubted
        const have = new Uint8Array(Math.max(bits.length, holder.have.length))
        setHave(
          holder,
          have.map((_, at) => (bits[at] ?? 0) | (holder.have[at] ?? 0)),
          now,
        )
      }
    },
    delete(peer) {
      const holder = byPeer.get(peer)
      if (holder === undefined) return
      setHave(holder, new Uint8Array(0), 0)
      for (const other of holder.neighbours) other.neighbours.delete(holder)
      byPeer.delete(peer)
      list.splice(list.indexOf(holder), 1)
    },
    held: (index) => counts[index] ?? 0,
    heldSince: (index) => since[index] ?? NEVER,
    heldBelow(end) {
      if (end > highest) return distinct
      let held = 0
      for (let i = 0; i < end; i++) if (counts[i] !== 0) held++
      return held
    },
  }
}
