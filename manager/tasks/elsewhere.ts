import { type Digest, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, cidOf } from '../../blockstore/index.ts'
import { type Cut, hasBit, type PeerId } from '../../scheduler/index.ts'
import type { Exchange, Membership, Origin, Rpc } from '../types.ts'
import { isCutSigned, type Signer } from './cuts.ts'
import { readMap } from './messages.ts'

/** So many nodes of other sites are asked for what they have. */
const ASKED = 16
const MAP_MS = 3000
const STALL_MS = 5000

interface Found {
  size: number | undefined
  mediaType: string | undefined
  blocks: Map<number, { cut: Cut; holders: PeerId[] }>
}

/** See Manager.elsewhere: other sites as an origin, which a site goes to once like to any upstream. */
export function createElsewhere(deps: {
  members: Membership
  rpc: Rpc
  exchange: Pick<Exchange, 'fetch'>
  signer: Signer
}): (digest: Digest) => Origin {
  const { members, rpc, exchange, signer } = deps

  /** @param range blocks that are wanted: a large blob's other names would be fetched anew for each of its parts */
  async function look(
    digest: Digest,
    range: { first: number; end: number },
    signal: AbortSignal,
  ): Promise<Found> {
    const found: Found = { size: undefined, mediaType: undefined, blocks: new Map() }
    const ask = async (peer: PeerId): Promise<void> => {
      for (let from: number | undefined = range.first; from !== undefined && from < range.end; ) {
        const page = readMap(await rpc.request(peer, 'map', { digest, from }, { timeoutMs: MAP_MS, signal }))
        found.size ??= page.size
        found.mediaType ??= page.mediaType
        for (const cut of page.cuts) {
          if (!hasBit(page.have, cut.index) || !isCutSigned(signer, digest, cut)) continue
          const known = found.blocks.get(cut.index)
          if (!known) found.blocks.set(cut.index, { cut, holders: [peer] })
          else if (known.cut.cid === cut.cid) known.holders.push(peer)
        }
        from = page.next !== undefined && page.next > from ? page.next : undefined
      }
    }
    const others = members
      .list()
      .filter(({ state, site }) => state === 'alive' && site !== members.self.site)
      .slice(0, ASKED)
    await Promise.allSettled(others.map(({ id }) => ask(id)))
    signal.throwIfAborted()
    return found
  }

  async function read(cut: Cut, holders: PeerId[], into: Buffer, signal: AbortSignal): Promise<Buffer> {
    for (const peer of holders) {
      try {
        const options = { length: cut.length, priority: 'client', signal, stallMs: STALL_MS } as const
        const bytes = await exchange.fetch(peer, cut.cid, { ...options, into: () => into })
        if (cidOf(bytes) === cut.cid) return bytes
      } catch (error) {
        if (signal.aborted) throw error
      }
    }
    throw new ShoalError('UPSTREAM_UNREACHABLE', `no other site gave block ${cut.index}`)
  }

  return (digest) => ({
    label: 'other sites',
    async fetch(range, signal) {
      const first = Math.floor(range.start / BLOCK_SIZE)
      // One at least: the answer tells the size.
      const wanted =
        range.end === undefined ? Infinity : Math.max(first + 1, Math.ceil(range.end / BLOCK_SIZE))
      const { size, mediaType, blocks } = await look(digest, { first, end: wanted }, signal)
      const end = Math.min(range.end ?? size ?? 0, size ?? 0)
      const last = Math.ceil(end / BLOCK_SIZE)
      for (let index = first; size === undefined || index < last; index++) {
        if (blocks.has(index)) continue
        throw new ShoalError('UPSTREAM_UNREACHABLE', `no node that can be reached has all of ${digest}`)
      }
      async function* body(): AsyncGenerator<Uint8Array> {
        const into = Buffer.allocUnsafeSlow(BLOCK_SIZE)
        for (let index = first; index < last; index++) {
          const { cut, holders } = blocks.get(index) as { cut: Cut; holders: PeerId[] }
          const bytes = await read(cut, holders, into, signal)
          const offset = index * BLOCK_SIZE
          yield bytes.subarray(Math.max(0, range.start - offset), Math.min(cut.length, end - offset))
        }
      }
      return { start: range.start, size, ranged: true, mediaType, body: body() }
    },
  })
}
