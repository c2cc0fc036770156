import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { PeerId } from '../types.ts'
import { isEmpty, without } from './bits.ts'
import type { Catalog, WantedBlob } from './catalog.ts'
import { type Layout, sharesOf } from './layout.ts'
import type { Holding } from './messages.ts'
import { offered } from './offered.ts'
import type { Peers } from './peers.ts'
import { spread } from './spreading.ts'
import type { Taking } from './taking.ts'
import type { Repaired } from './types.ts'

/** Changes come in crowds. */
const SETTLE_MS = 500
/** What did not work is tried again after so long, then after twice as long and so on; all is looked at anew after FULL_MS. */
const AGAIN_MS = 15_000
const FULL_MS = 10 * 60_000
const WATCH_MS = 1000
/** The record that frees a blob may come before the one that wants it again: they are in no order. */
const FREED_MS = 10_000
const HEAL_MS = 500

/** Sees to the copies of the stored blobs that this node coordinates, whenever something changes. */
export interface Keeping {
  /** Something may have to be done, soon. */
  kick(): void
  /** Looks at all of them now. */
  round(signal: AbortSignal, paced: boolean): Promise<Repaired>
  /** What the nodes that answer have of each blob. */
  ask(digests: readonly Digest[], signal: AbortSignal): Promise<Map<PeerId, Holding[]>>
  /** The store lost blocks of the blob: those that this node keeps are fetched again. */
  lost(digest: Digest): void
  close(): Promise<void>
}

export function createKeeping(deps: {
  self: PeerId
  catalog: Catalog
  layout: Layout
  peers: Peers
  taking: Taking
  store: BlockStore
  /** So long something is kept of which no record is known. */
  orphanMs: number
  log: Log
}): Keeping {
  const { self, catalog, layout, peers, taking, store, log } = deps
  const closing = new AbortController()
  const healing = new Set<Digest>()
  const orphans = new Map<Digest, number>()
  const freed = new Map<Digest, number>()
  let running: Promise<unknown> = Promise.resolve()
  let dueAt = performance.now() + SETTLE_MS
  let againMs = AGAIN_MS
  let state = ''

  async function ask(digests: readonly Digest[], signal: AbortSignal): Promise<Map<PeerId, Holding[]>> {
    const answers = new Map<PeerId, Holding[]>()
    await Promise.all(
      layout.live().map(async (peer) => {
        try {
          answers.set(peer, await peers.holdings(peer, digests, signal))
        } catch (error) {
          log.debug({ peer, error: String(error) }, 'a node does not say what it keeps')
        }
      }),
    )
    return answers
  }

  async function look(signal: AbortSignal, paced: boolean): Promise<Repaired & { again: boolean }> {
    await catalog.ready
    const total = { copied: 0, bytes: 0, lost: 0, again: false }
    const wanted = catalog.blobs()
    const own = wanted.filter(
      (blob) => !blob.pending && blob.size > 0 && layout.keeperOf(blob.digest) === self,
    )
    if (own.length > 0) {
      await offered({ layout, catalog, signal })
      const nodes = layout.weigh(wanted, catalog.offers(), layout.counts)
      const answers = await ask(
        own.map((blob) => blob.digest),
        signal,
      )
      for (const [at, blob] of own.entries()) {
        const holdings = new Map([...answers].map(([peer, held]) => [peer, held[at]!] as const))
        const done = await see(blob, holdings)
        total.copied += done.copied
        total.bytes += done.bytes
        total.lost += done.lost
        if (done.open) total.again = true
      }
      function see(blob: WantedBlob, holdings: Map<PeerId, Holding>) {
        const shares = sharesOf(blob, nodes)
        return spread({ blob, shares, holdings, peers, release: true, paced, log, signal })
      }
    }
    await dropOrphans()
    if (total.copied > 0 || total.lost > 0) log.info({ ...total }, 'saw to the copies of stored images')
    return total
  }

  /** What this node keeps though nothing wants it: not at once, since a record may be late. */
  async function dropOrphans(): Promise<void> {
    const now = performance.now()
    const seen = new Set<Digest>()
    for await (const digest of store.keptBlobs()) {
      if (catalog.blob(digest)) continue
      seen.add(digest)
      const since = orphans.get(digest) ?? now
      orphans.set(digest, since)
      if (now - since >= deps.orphanMs) await taking.forget(digest)
    }
    for (const digest of orphans.keys()) if (!seen.has(digest)) orphans.delete(digest)
  }

  function round(signal: AbortSignal, paced: boolean): Promise<Repaired> {
    const turn = running.then(async () => {
      if (closing.signal.aborted) throw new ShoalError('ABORTED', 'closing')
      const { again, ...done } = await look(AbortSignal.any([signal, closing.signal]), paced)
      if (!again || done.copied > 0) againMs = AGAIN_MS
      dueAt = Math.min(dueAt, performance.now() + (again ? againMs : FULL_MS))
      againMs = Math.min(2 * againMs, FULL_MS)
      return done
    })
    running = turn.catch(() => {})
    return turn
  }

  function kick(): void {
    againMs = AGAIN_MS
    dueAt = Math.min(dueAt, performance.now() + SETTLE_MS)
  }

  const watch = setInterval(() => {
    dropFreed()
    const now = layout.state(catalog.offers())
    if (now !== state) {
      state = now
      kick()
    }
    if (performance.now() < dueAt) return
    dueAt = Number.POSITIVE_INFINITY
    round(closing.signal, true).catch((error) => {
      dueAt = performance.now() + AGAIN_MS
      if (!closing.signal.aborted) log.warn({ error: String(error) }, 'seeing to stored images failed')
    })
  }, WATCH_MS)
  watch.unref()

  const stop = catalog.onChange((digests) => {
    kick()
    for (const digest of digests) freed.set(digest, performance.now() + FREED_MS)
  })

  function dropFreed(): void {
    for (const [digest, at] of freed) {
      if (performance.now() < at) continue
      freed.delete(digest)
      if (catalog.blob(digest)) continue
      taking
        .forget(digest)
        .catch((error) => log.warn({ digest, error: String(error) }, 'letting go a share failed'))
    }
  }

  /** True when nothing of this node's share is missing any more. */
  async function heal(digest: Digest): Promise<boolean> {
    const blob = catalog.blob(digest)
    if (!blob) return true
    const { here, kept } = await taking.holding(digest)
    if (isEmpty(without(kept, here))) return true
    const sources = [...(await ask([digest], closing.signal))]
      .filter(([peer]) => peer !== self)
      .map(([peer, [held]]) => ({ peer, here: held!.here }))
    const after = await taking.take({ blob, keep: kept, sources, paced: true }, closing.signal)
    return isEmpty(without(kept, after.here))
  }

  function healIn(digest: Digest, ms: number, thenMs = AGAIN_MS): void {
    if (!catalog.blob(digest) || healing.has(digest) || closing.signal.aborted) return
    healing.add(digest)
    const run = async (): Promise<void> => {
      if (closing.signal.aborted) return
      const whole = await heal(digest).catch((error) => {
        if (!closing.signal.aborted) log.warn({ digest, error: String(error) }, 'repairing a share failed')
        return false
      })
      healing.delete(digest)
      if (!whole) healIn(digest, thenMs, Math.min(2 * thenMs, FULL_MS))
    }
    setTimeout(() => void run(), ms).unref()
  }

  return {
    kick,
    round,
    ask,
    lost: (digest) => healIn(digest, HEAL_MS),
    async close() {
      clearInterval(watch)
      stop()
      closing.abort(new ShoalError('ABORTED', 'closing'))
      await running
    },
  }
}
