import type { Membership, PeerId, Rpc } from '../types.ts'
import type { Layout } from './layout.ts'

const ASK_MS = 3000
const AGAIN_MS = 200
/** By then membership has made up its mind about who does not answer. */
const DOUBT_MS = 10_000

/** Resolves when every node of the site that counts as alive has answered: those that died a moment ago are gone by then. */
export async function callRoll(deps: {
  members: Membership
  rpc: Rpc
  layout: Layout
  signal: AbortSignal
}): Promise<void> {
  const { members, rpc, layout, signal } = deps
  const end = performance.now() + DOUBT_MS

  async function call(peer: PeerId): Promise<void> {
    while (layout.live().includes(peer) && performance.now() < end) {
      try {
        await rpc.request(peer, 'copies.have', { digests: [] }, { timeoutMs: ASK_MS, signal })
        return
      } catch {
        signal.throwIfAborted()
        members.doubt(peer)
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS))
      }
    }
  }

  const others = layout.live().filter((peer) => peer !== members.self.id)
  await Promise.all(others.map(call))
}
