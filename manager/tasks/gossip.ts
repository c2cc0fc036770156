import type { Digest } from '../../base/index.ts'
import type { PeerId } from '../../scheduler/index.ts'
import type { Rpc } from '../types.ts'
import type { Blocks } from './blocks.ts'
import { packHave } from './messages.ts'

const BATCH_MS = 40
const MAX_NEIGHBOURS = 48

/** Tells the fellow pullers of a blob at first hand what arrived here, so that the coordinator is on nobody's critical path. */
export interface Gossip {
  /** The peer is pulling the same blob, or no longer. */
  neighbour(peer: PeerId, pulling: boolean): void
  readonly neighbours: number
  got(index: number): void
  stop(): void
}

export function createGossip(deps: { digest: Digest; blocks: Blocks; rpc: Rpc }): Gossip {
  const { digest, blocks, rpc } = deps
  const neighbours = new Set<PeerId>()
  let fresh: number[] = []
  let timer: NodeJS.Timeout | undefined

  function flush(): void {
    timer = undefined
    const indexes = fresh
    fresh = []
    if (indexes.length === 0) return
    const cuts = indexes.flatMap((index) => blocks.cut(index) ?? [])
    const note = packHave({ digest, indexes, cuts, pulling: blocks.missing !== 0 })
    for (const peer of neighbours) rpc.notify(peer, 'have', note)
  }

  return {
    neighbour(peer, pulling) {
      if (!pulling) neighbours.delete(peer)
      else if (neighbours.size < MAX_NEIGHBOURS) neighbours.add(peer)
    },
    get neighbours() {
      return neighbours.size
    },
    got(index) {
      if (neighbours.size === 0) return
      fresh.push(index)
      timer ??= setTimeout(flush, BATCH_MS)
    },
    stop() {
      clearTimeout(timer)
      flush()
    },
  }
}
