import type { Digest } from '../../base/index.ts'
import type { Cut, PeerId } from '../../scheduler/index.ts'
import type { Rpc } from '../types.ts'
import { type HaveNote, packHave } from './messages.ts'

/** News that nobody else can have yet go soon; the rest is gathered for longer, since each message costs both ends. */
const FIRST_MS = 15
const RELAY_MS = 500
const MAX_INDEXES = 4096

/**
 * Tells the fellow pullers at first hand what arrived here, so that the coordinator is on nobody's critical path. One for
 * all tasks: a neighbour gets one message about all the blobs that it pulls with us. Who brought a block into the site
 * tells its cut; the others pass on its index only, since the cut is on its way from there and from the coordinator.
 */
export interface Gossip {
  /** A block is here. `first`: this node brought it into the site. */
  got(peers: Iterable<PeerId>, digest: Digest, cut: Cut, first: boolean): void
  /** The blob is whole: this node wants to hear no more of it. */
  whole(digest: Digest): void
  close(): void
}

type News = Pick<HaveNote, 'cuts' | 'indexes'>

export function createGossip({ rpc }: { rpc: Rpc }): Gossip {
  const news = new Map<PeerId, Map<Digest, News>>()
  const done = new Set<Digest>()
  let timer: NodeJS.Timeout | undefined
  let due = Number.POSITIVE_INFINITY

  function flush(): void {
    timer = undefined
    due = Number.POSITIVE_INFINITY
    for (const [peer, blobs] of news) {
      const notes = [...blobs].map(([digest, told]) =>
        packHave({ digest, ...told, pulling: !done.has(digest) }),
      )
      rpc.notify(peer, 'have', notes)
    }
    news.clear()
    done.clear()
  }

  function flushIn(ms: number): void {
    const at = performance.now() + ms
    if (at >= due) return
    due = at
    clearTimeout(timer)
    timer = setTimeout(flush, ms)
  }

  return {
    got(peers, digest, cut, first) {
      for (const peer of peers) {
        const blobs = news.get(peer) ?? new Map<Digest, News>()
        news.set(peer, blobs)
        const told = blobs.get(digest) ?? { cuts: [], indexes: [] }
        blobs.set(digest, told)
        if (told.cuts.length + told.indexes.length >= MAX_INDEXES) continue
        if (first) told.cuts.push(cut)
        else told.indexes.push(cut.index)
      }
      if (news.size > 0) flushIn(first ? FIRST_MS : RELAY_MS)
    },
    whole: (digest) => void done.add(digest),
    close: () => clearTimeout(timer),
  }
}
