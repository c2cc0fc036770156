import type { Log } from '../../base/index.ts'
import type { Membership, PeerId } from '../types.ts'
import { livePeers } from './roll.ts'
import type { Sync } from './sync.ts'

/**
 * So many of those who appear together are asked, and about so many ask one who appears; who is left out of a large site
 * learns from the next round.
 */
const NEWCOMERS = 4

export interface Timing {
  /** After a change of the members. */
  settleMs: number
  /** Before a peer that missed a write, or did not answer, is asked again; doubled each time in vain, up to `everyMs`. */
  retryMs: number
  /** Between comparisons with a random live member. */
  everyMs: number
  /** Between looks for what is too old. */
  choresMs: number
}

export const TIMING: Timing = { settleMs: 100, retryMs: 3000, everyMs: 60_000, choresMs: 3600_000 }

/** Decides when this node compares its records, and with whom: one at a time. */
export interface Rounds {
  /** The peer did not get something. */
  missed(peer: PeerId): void
  /** Compares with who is there and was not yet compared with; resolves when that is done, well or not. */
  catchUp(): Promise<void>
  close(): Promise<void>
}

export function createRounds(deps: {
  members: Membership
  sync: Sync
  /** Run now and then. */
  chores: () => Promise<void>
  onMembers: () => void
  timing: Timing
  log: Log
  random: () => number
}): Rounds {
  const { members, sync, chores, onMembers, timing, log, random } = deps
  const due = new Set<PeerId>()
  const timers = new Set<NodeJS.Timeout>()
  const retrying = new Set<PeerId>()
  /** Of peers that did not answer: when the next try in vain is followed by another. */
  const waits = new Map<PeerId, number>()
  const closing = new AbortController()
  let present = new Set<PeerId>()
  let settling = false
  let working: Promise<void> | undefined
  let tidying: Promise<void> | undefined

  function after(ms: number, action: () => void): void {
    if (closing.signal.aborted) return
    const timer = setTimeout(() => {
      timers.delete(timer)
      action()
    }, ms).unref()
    timers.add(timer)
  }

  function pick(peers: PeerId[], count: number): PeerId[] {
    const order = peers.map((peer) => ({ peer, at: random() })).sort((a, b) => a.at - b.at)
    return order.slice(0, count).map(({ peer }) => peer)
  }

  function ask(peers: PeerId[]): void {
    for (const peer of peers) due.add(peer)
    if (due.size === 0 || closing.signal.aborted) return
    working ??= work().finally(() => {
      working = undefined
    })
  }

  async function work(): Promise<void> {
    for (const peer of due) {
      due.delete(peer)
      if (closing.signal.aborted) return
      if (!livePeers(members).includes(peer)) {
        waits.delete(peer)
        continue
      }
      try {
        const { taken, given, refused } = await sync.with(peer, closing.signal)
        waits.delete(peer)
        if (taken + given > 0) log.debug({ peer, taken, given }, 'shared records compared')
        if (refused > 0) {
          log.warn(
            { peer, refused },
            'records with a time far ahead were refused: a clock here or there is wrong',
          )
        }
      } catch (error) {
        if (closing.signal.aborted) return
        log.debug({ peer, error: String(error) }, 'shared records not compared')
        missed(peer)
      }
    }
  }

  function missed(peer: PeerId): void {
    if (retrying.has(peer)) return
    retrying.add(peer)
    const ms = waits.get(peer) ?? timing.retryMs
    waits.set(peer, Math.min(2 * ms, Math.max(timing.retryMs, timing.everyMs)))
    after(ms, () => {
      retrying.delete(peer)
      ask([peer])
    })
  }

  function look(): void {
    settling = false
    onMembers()
    const now = livePeers(members)
    const before = present
    present = new Set(now)
    const fresh = now.filter((peer) => !before.has(peer))
    // Not all at once: each would give a new node the whole table. Who just started meets only newcomers, and asks some.
    const chance = before.size === 0 ? 1 : NEWCOMERS / now.length
    ask(
      pick(
        fresh.filter(() => random() < chance),
        NEWCOMERS,
      ),
    )
  }

  function lookSoon(): void {
    if (settling) return
    settling = true
    after(timing.settleMs, look)
  }

  function everyRound(): void {
    // Jitter keeps nodes that started together from asking in step.
    after(timing.everyMs * (0.5 + random()), () => {
      ask(pick(livePeers(members), 1))
      everyRound()
    })
  }

  function tidy(): void {
    tidying = chores()
      .catch((error) => {
        if (!closing.signal.aborted) log.warn({ error: String(error) }, 'old records were not removed')
      })
      .finally(() => after(timing.choresMs, tidy))
  }

  const stop = members.onChange(lookSoon)
  lookSoon()
  everyRound()
  tidy()

  return {
    missed,
    async catchUp() {
      look()
      await working
    },
    async close() {
      stop()
      closing.abort()
      for (const timer of timers) clearTimeout(timer)
      await Promise.all([working, tidying])
    },
  }
}
