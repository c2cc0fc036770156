import type { Log } from '../../base/index.ts'
import { hasBit, type PeerId } from '../../scheduler/index.ts'
import type { Rpc } from '../types.ts'
import type { Blocks } from './blocks.ts'
import { readMap } from './messages.ts'

const TIMEOUT_MS = 2000
const PAUSE_MS = 300

/** Asks a holder for the names of its blocks where the coordinator knows only that it has them. */
export interface MapQueries {
  look(holders: readonly { peer: PeerId; have: Uint8Array }[]): void
  stop(): void
}

export function createMapQueries(deps: {
  blocks: Blocks
  rpc: Rpc
  onCuts: (indexes: number[]) => void
  log: Log
}): MapQueries {
  const { blocks, rpc, log } = deps
  const stopping = new AbortController()
  const failedAt = new Map<PeerId, number>()
  let busy = false

  /** The first block that the holder has and whose cut is not known here. */
  function unknownOf(have: Uint8Array): number | undefined {
    const end = Math.min(blocks.count ?? have.length * 8, have.length * 8)
    for (let index = 0; index < end; index++) {
      if (hasBit(have, index) && !blocks.cut(index)) return index
    }
    return undefined
  }

  async function ask(peer: PeerId, from: number): Promise<void> {
    let next: number | undefined = from
    while (next !== undefined && !stopping.signal.aborted) {
      const page = readMap(
        await rpc.request(
          peer,
          'map',
          { digest: blocks.digest, from: next },
          { timeoutMs: TIMEOUT_MS, signal: stopping.signal },
        ),
      )
      await blocks.describe({
        ...(page.size === undefined ? {} : { size: page.size }),
        ...(page.mediaType === undefined ? {} : { mediaType: page.mediaType }),
      })
      deps.onCuts(blocks.learn(page.cuts))
      next = page.next !== undefined && page.next > next ? page.next : undefined
    }
    // It claims blocks that it cannot name: not asked again for a while.
    failedAt.set(peer, Date.now())
  }

  return {
    look(holders) {
      if (busy) return
      for (const { peer, have } of holders) {
        if (Date.now() - (failedAt.get(peer) ?? 0) < PAUSE_MS) continue
        const from = unknownOf(have)
        if (from === undefined) continue
        busy = true
        ask(peer, from)
          .catch((error) => {
            failedAt.set(peer, Date.now())
            log.debug({ peer, error: String(error) }, 'asking for a block map failed')
          })
          .finally(() => {
            busy = false
          })
        return
      }
    },
    stop: () => stopping.abort(new DOMException('the task ended', 'AbortError')),
  }
}
