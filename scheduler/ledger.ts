import { bitIndexes, clearBit, hasBit } from './bits.ts'
import { createCutLog } from './cutlog.ts'
import { createHolders, type Holder, type Refused } from './holders.ts'
import { createLeases } from './leases.ts'
import { DEFAULT_LIMITS, type LedgerLimits } from './limits.ts'
import { hash32 } from './rendezvous.ts'
import { sampleHolders } from './sample.ts'
import type { Cut, DispatchAnswer, DispatchRequest, Ledger, PeerId, ReleaseReason } from './types.ts'

/** After so many times `strandedMs` without a block, what others claim to have is no hope any more. */
const IN_VAIN = 4
/** Which failure says most about why a blob cannot be had. */
const TELLING: ReleaseReason[] = ['missing', 'denied', 'unreachable']
const MAX_UNREACHABLE_MS = 10_000
const LESSEE_RETRY_MS = 100
const SOON_MS = 50
const SMALL_SITE = 16

/**
 * The coordinator's book of the blob `digest`, cut at multiples of `blockSize` bytes. `random` gives numbers in [0, 1); the
 * same numbers and dispatches give the same answers.
 */
export function createLedger(options: {
  digest: string
  blockSize: number
  random: () => number
  limits?: Partial<LedgerLimits>
}): Ledger {
  const { digest, blockSize, random } = options
  const limits = { ...DEFAULT_LIMITS.ledger, ...options.limits }
  const life = Math.floor(random() * 2 ** 31)
  const cuts = createCutLog(1 + life * 2 ** 21)
  let clock = 0
  let bornAt: number | undefined
  /** When a node was last heard of for the first time. */
  let joinedAt = Number.NEGATIVE_INFINITY
  /** When a block last got its first holder. */
  let gainedAt = Number.NEGATIVE_INFINITY
  let size: number | undefined
  let sizeBy: PeerId | undefined
  let mediaType: string | undefined

  const holders = createHolders({
    gained: (index, by, first) => {
      if (first) gainedAt = clock
      leases.gained(index, by, first, clock)
    },
    lost: (index) => leases.lost(index),
  })
  const leases = createLeases(limits, blockSize, hash32(digest, life).toString(36), holders, {
    blocks,
    seeders,
    rumoured: (index) => rumours(limits.rumourMs) && cuts.get(index) !== undefined && !wasHeld(index),
  })

  function blocks(): number | undefined {
    return size === undefined ? undefined : Math.ceil(size / blockSize)
  }

  function alive(holder: Holder): boolean {
    return clock - holder.heardAt <= Math.max(limits.silentMs, 3 * holder.retryMs)
  }

  function canSeed(holder: Holder): boolean {
    return holder.pulling && holder.seedRate !== undefined && !cuts.shunned(holder.peer) && alive(holder)
  }

  function refusedNow(holder: Holder): boolean {
    return holder.refused !== undefined && holder.refused.until > clock
  }

  function seeders(): Holder[] {
    return holders.list.filter((holder) => canSeed(holder) && !refusedNow(holder))
  }

  function setSize(bytes: number, by: PeerId): void {
    if (size !== undefined || !Number.isSafeInteger(bytes) || bytes < 0) return
    if (Math.ceil(bytes / blockSize) > limits.blocks) return
    size = bytes
    sizeBy = by
    for (const holder of holders.list) holders.setHave(holder, within(holder.have), clock)
  }

  /** A copy of the bitfield without the bits that no block can have. */
  function within(have: Uint8Array): Uint8Array {
    const end = blocks() ?? limits.blocks
    const copy = have.slice(0, Math.ceil(end / 8))
    if (end % 8 !== 0 && copy.length === Math.ceil(end / 8)) copy[copy.length - 1]! &= (1 << (end % 8)) - 1
    return copy
  }

  function fits(cut: Cut): boolean {
    if (!Number.isSafeInteger(cut.index) || cut.index < 0 || cut.index >= (blocks() ?? limits.blocks))
      return false
    if (size === undefined) return cut.length > 0 && cut.length <= blockSize
    return cut.length === Math.min(blockSize, size - cut.index * blockSize)
  }

  /** What the asker has, less the bits that may stand for a block whose cut was rejected meanwhile. */
  function believed(request: DispatchRequest): Uint8Array {
    const have = within(request.have)
    for (const index of bitIndexes(have)) {
      if (!cuts.doubted(index) || request.version >= cuts.versionOf(index)) continue
      const cid = cuts.get(index)?.cid
      if (!request.cuts.some((cut) => cut.index === index && cut.cid === cid)) clearBit(have, index)
    }
    return have
  }

  function takeReleased(holder: Holder, released: NonNullable<DispatchRequest['released']>): void {
    for (const { id, reason, detail } of released) {
      leases.release(id, holder, reason === 'done', clock)
      if (reason === 'no-range') leases.wholeOnly()
      if (!TELLING.includes(reason)) continue
      leases.releaseAll(holder)
      if (reason === 'unreachable') holders.believe(clock)
      const times = holder.refused?.reason === reason ? holder.refused.times + 1 : 1
      const ms =
        reason === 'unreachable'
          ? Math.min(MAX_UNREACHABLE_MS, limits.unreachableMs * 2 ** (times - 1))
          : limits.refusedMs
      const told = detail === undefined ? { reason } : { reason, detail }
      holder.refused = { ...told, at: clock, until: clock + ms, times }
    }
  }

  /** Here, not only somewhere: a holder that was heard of and is gone leaves no hope. */
  function wasHeld(index: number): boolean {
    return holders.heldSince(index) !== Number.NEGATIVE_INFINITY
  }

  /** True while a cut that was told of may well mean that somebody has the block who was not heard of yet. */
  function rumours(ms: number): boolean {
    // Reports come in one after the other; when no more come, everybody has reported.
    return bornAt !== undefined && clock - bornAt < ms && clock - joinedAt < limits.quietMs
  }

  /** True while a new coordinator sees cuts of blocks whose holders have not reported yet. */
  function settling(): boolean {
    if (!rumours(limits.settleMs)) return false
    const end = blocks() ?? limits.blocks
    for (const index of cuts.indexes()) if (index < end && !wasHeld(index)) return true
    return false
  }

  function complete(): boolean {
    const end = blocks()
    return end !== undefined && holders.heldBelow(end) >= end
  }

  /** What upstream told the nodes that tried, where that leaves no hope for this one. */
  function refusal(holder: Holder): DispatchAnswer['refusal'] {
    if (settling()) return undefined
    const held = complete()
    if (held && clock - holder.grownAt < IN_VAIN * limits.strandedMs) return undefined
    const refusals: Refused[] = []
    for (const { refused } of holders.list) {
      if (refused !== undefined && (refused.until > clock || clock - refused.at < limits.refusedMs)) {
        refusals.push(refused)
      }
    }
    const untried = canSeed(holder) && !refusedNow(holder)
    const recent = refusals.filter((refused) => refused.at >= gainedAt).length
    const inVain = recent >= limits.tries && leases.delivered === 0 && !untried
    if (!inVain && (leases.live > 0 || seeders().length > 0)) return undefined
    refusals.sort((a, b) => TELLING.indexOf(a.reason) - TELLING.indexOf(b.reason))
    const worst = refusals[0]
    if (worst === undefined && held) return undefined
    if (worst === undefined)
      return { reason: 'unreachable', detail: 'no node that pulls it can reach upstream' }
    return { reason: worst.reason, ...(worst.detail === undefined ? {} : { detail: worst.detail }) }
  }

  /** Often enough for whoever waits, seldom enough that the coordinator gets a few hundred dispatches a second. */
  function retryMs(holder: Holder): number {
    if (!holder.pulling) return 10_000
    if (leases.holds(holder)) return LESSEE_RETRY_MS
    let pullers = 0
    for (const other of holders.list) if (other.pulling && alive(other)) pullers++
    const waits = canSeed(holder) && !refusedNow(holder) && !complete() && pullers <= SMALL_SITE
    return Math.max(waits ? SOON_MS : LESSEE_RETRY_MS, pullers * 3)
  }

  /** Takes in what the asker says of itself and of the blob. */
  function learn(holder: Holder, request: DispatchRequest, now: number): void {
    // Who was away, or only begins to pull, has not waited in vain.
    const away = now - holder.heardAt > Math.max(1000, 3 * holder.retryMs)
    if (away || !holder.pulling) holder.grownAt = now
    holder.heardAt = now
    holder.pulling = request.pulling
    holder.seedRate = request.seed === undefined ? undefined : Math.max(0, request.seed.rate)
    if (request.size !== undefined) {
      holder.size = request.size
      if (!cuts.shunned(request.peer)) setSize(request.size, request.peer)
    }
    mediaType ??= request.mediaType
    for (const cut of request.cuts) if (fits(cut)) cuts.add(cut)
    holders.setHave(holder, believed(request), now)
    takeReleased(holder, request.released ?? [])
  }

  function answer(holder: Holder, request: DispatchRequest): DispatchAnswer {
    const end = blocks() ?? limits.blocks
    const known = request.version === 0 || cuts.issued(request.version)
    const told = new Set(request.cuts.map((cut) => cut.index))
    const news = cuts.since(
      known ? request.version : 0,
      limits.cuts,
      (index) => index >= end || (!cuts.doubted(index) && (told.has(index) || hasBit(request.have, index))),
    )
    const refused = holder.pulling ? refusal(holder) : undefined
    holder.retryMs = known ? retryMs(holder) : SOON_MS
    return {
      // A version of another life: the asker must tell all that it knows.
      version: known ? news.version : 0,
      ...(size === undefined ? {} : { size }),
      ...(mediaType === undefined ? {} : { mediaType }),
      cuts: news.cuts,
      holders: sampleHolders(holder, holders.list, limits.holders, alive, random).map((other) => ({
        peer: other.peer,
        have: other.have,
        pulling: other.pulling,
      })),
      leases: leases.of(holder),
      seeding: leases.live > 0,
      ...(refused === undefined ? {} : { refusal: refused }),
      retryMs: holder.retryMs,
    }
  }

  return {
    dispatch(request, now) {
      clock = now
      bornAt ??= now
      leases.expire(now)
      const known = holders.get(request.peer)
      const holder = known ?? holders.of(request.peer, now)
      if (known === undefined) joinedAt = now
      if (known === undefined || !isQuestion(request)) {
        learn(holder, request, now)
        if (!holder.pulling) leases.releaseAll(holder)
        else if (canSeed(holder) && !refusedNow(holder) && !settling()) leases.grant(holder, now)
      }
      const said = answer(holder, request)
      if (!holder.pulling && holder.count === 0) holders.delete(request.peer)
      return said
    },

    forget(peer) {
      const holder = holders.get(peer)
      if (holder === undefined) return
      leases.releaseAll(holder)
      holders.delete(peer)
    },

    correct(peer, have) {
      const holder = holders.get(peer)
      if (holder !== undefined) holders.setHave(holder, within(have), clock)
    },

    reject(index, cid, shun) {
      const cut = cuts.reject(index, cid)
      const lost = [index]
      if (shun && cut !== undefined) {
        lost.push(...cuts.shun(cut.seeder))
        const liar = holders.get(cut.seeder)
        if (liar !== undefined) leases.releaseAll(liar)
        if (sizeBy === cut.seeder) {
          size = undefined
          const other = holders.list.find((each) => each.size !== undefined && !cuts.shunned(each.peer))
          if (other?.size !== undefined) setSize(other.size, other.peer)
        }
      }
      for (const holder of holders.list) {
        const have = holder.have.slice()
        if (lost.filter((each) => clearBit(have, each)).length > 0) holders.setHave(holder, have, clock)
      }
    },

    get usedAt() {
      return clock
    },

    get complete() {
      return complete()
    },

    get empty() {
      return leases.live === 0 && holders.list.every((holder) => holder.count === 0 && !holder.pulling)
    },
  }
}

/** True for a node that neither has the blob nor wants it: its asking says nothing of what it may have told before. */
function isQuestion(request: DispatchRequest): boolean {
  return (
    !request.pulling &&
    request.version === 0 &&
    request.cuts.length === 0 &&
    request.released === undefined &&
    request.have.every((byte) => byte === 0)
  )
}
