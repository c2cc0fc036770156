import type { Digest } from '../../base/index.ts'
import type { PeerId, Rpc } from '../types.ts'
import {
  type Holding,
  PAGE,
  packHoldings,
  packTake,
  readDigests,
  readHoldings,
  readRelease,
  readTake,
  type TakeRequest,
} from './messages.ts'
import { TAKE_MS, type Taking } from './taking.ts'

const ASK_MS = 3000

/** The nodes that keep blocks, this one among them: asked and told over RPC. */
export interface Peers {
  /** In the order of the digests. @throws PEER_GONE | TIMEOUT */
  holdings(peer: PeerId, digests: readonly Digest[], signal: AbortSignal): Promise<Holding[]>
  /** See Taking. */
  take(peer: PeerId, request: TakeRequest, signal: AbortSignal): Promise<Holding>
  release(peer: PeerId, digest: Digest, drop: Uint8Array, signal: AbortSignal): Promise<Holding>
}

/** @param keeperOf whom this node believes to see to a blob: nobody else may tell it to give up a share */
export function createPeers(deps: {
  self: PeerId
  rpc: Rpc
  taking: Taking
  keeperOf: (digest: Digest) => PeerId
}): Peers {
  const { self, rpc, taking, keeperOf } = deps

  /** One after the other: the names of a large blob's blocks take megabytes while they are counted. */
  async function own(digests: readonly Digest[]): Promise<Holding[]> {
    const holdings: Holding[] = []
    for (const digest of digests) holdings.push(await taking.holding(digest))
    return holdings
  }

  rpc.handle('copies.have', async (_peer, body) => packHoldings(await own(readDigests(body))))
  rpc.handle('copies.take', async (_peer, body, signal) =>
    packHoldings([await taking.take(readTake(body), signal)]),
  )
  rpc.handle('copies.release', async (peer, body) => {
    const { digest, drop } = readRelease(body)
    // While a site parts or meets, two may take themselves for the keeper: each would count on what the other lets go.
    const obeyed = keeperOf(digest) === peer
    return packHoldings([await (obeyed ? taking.release(digest, drop) : taking.holding(digest))])
  })

  const one = (answer: unknown): Holding => readHoldings(answer, 1)[0]!

  return {
    async holdings(peer, digests, signal) {
      const all: Holding[] = []
      for (let at = 0; at < digests.length; at += PAGE) {
        const page = digests.slice(at, at + PAGE)
        if (peer === self) all.push(...(await own(page)))
        else {
          const answer = await rpc.request(
            peer,
            'copies.have',
            { digests: page },
            { timeoutMs: ASK_MS, signal },
          )
          all.push(...readHoldings(answer, page.length))
        }
      }
      return all
    },
    take: async (peer, request, signal) =>
      peer === self
        ? taking.take(request, signal)
        : one(
            await rpc.request(peer, 'copies.take', packTake(request), {
              timeoutMs: TAKE_MS + 10_000,
              signal,
            }),
          ),
    release: async (peer, digest, drop, signal) =>
      peer === self
        ? taking.release(digest, drop)
        : one(await rpc.request(peer, 'copies.release', { digest, drop }, { timeoutMs: ASK_MS, signal })),
  }
}
