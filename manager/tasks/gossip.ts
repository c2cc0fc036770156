import type { Digest } from '../../base/index.ts'
import type { Cut, PeerId } from '../../scheduler/index.ts'
import type { Rpc } from '../types.ts'
import { packHave } from './messages.ts'

/** News that nobody else can have yet go soon; the rest is gathered for longer, since each message costs both ends. */
const FIRST_MS = 15
const RELAY_MS = 200
const MAX_INDEXES = 4096

/**
 * Tells the fellow pullers at first hand what arrived here, so that the coordinator is on nobody's critical path. One for
 * all tasks: a neighbour gets one message about all the blobs that it pulls with us.
 */
export interface Gossip {
  /** A block is here. `first`: this node brought it into the site. */
  got(peers: Iterable<PeerId>, digest: Digest, cut: Cut, first: boolean): void
  /** The blob is whole: this node wants to hear no more of it. */
  whole(digest: Digest): void
  close(): void
}

export function createGossip({ rpc }: { rpc: Rpc }): Gossip {
  const news = new Map<PeerId, Map<Digest, Cut[]>>()
  const done = new Set<Digest>()
  let timer: NodeJS.Timeout | undefined
  let due = Number.POSITIVE_INFINITY

  function flush(): void {
    timer = undefined
    due = Number.POSITIVE_INFINITY
    for (const [peer, blobs] of news) {
      const notes = [...blobs].map(([digest, cuts]) => packHave({ digest, cuts, pulling: !done.has(digest) }))
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
        const blobs = news.get(peer) ?? new Map<Digest, Cut[]>()
        news.set(peer, blobs)
        const cuts = blobs.get(digest)
        if (!cuts) blobs.set(digest, [cut])
        else if (cuts.length < MAX_INDEXES) cuts.push(cut)
      }
      if (news.size > 0) flushIn(first ? FIRST_MS : RELAY_MS)
    },
    whole: (digest) => void done.add(digest),
    close: () => clearTimeout(timer),
  }
}
