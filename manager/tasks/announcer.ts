import type { Digest, Log } from '../../base/index.ts'
import { BLOCK_SIZE, type Blob, type BlockStore } from '../../blockstore/index.ts'
import { type PeerId, rendezvous } from '../../scheduler/index.ts'
import type { Membership, Rpc } from '../types.ts'
import { createBlocks } from './blocks.ts'
import { REPLICAS } from './coordinator.ts'
import type { Signer } from './cuts.ts'
import { packCut } from './messages.ts'

/** Blobs of at most this many blocks are announced with their cuts, which spares the puller a question. */
const SMALL = 2
/** So many cuts go with a share that is told by itself: else a puller would have to ask each of its holders for them. */
const SHARE_CUTS = 64
const BATCH = 512
const SETTLE_MS = 250

/** Tells the coordinators which blobs are here, whole or as a kept share: when they come, and when the coordinators change. */
export interface Announcer {
  complete(digest: Digest): void
  /** This node keeps a part of the blob, and more of it came. */
  share(digest: Digest): void
  /** Blocks were lost: the coordinators hear what is left. */
  incomplete(digest: Digest): void
  close(): void
}

export function createAnnouncer(deps: {
  members: Membership
  rpc: Rpc
  store: BlockStore
  signer: Signer
  log: Log
}): Announcer {
  const { members, rpc, store, signer, log } = deps
  const self = members.self.id
  const closing = new AbortController()
  let told = siteOf()
  let timer: NodeJS.Timeout | undefined

  function siteOf(): PeerId[] {
    return members.site().map((member) => member.id)
  }
  const coordinators = (digest: Digest, site: readonly PeerId[]): PeerId[] =>
    rendezvous(digest, [...site]).slice(0, REPLICAS)

  async function entry(blob: Blob, cuts: number): Promise<unknown> {
    const small = (blob.size ?? 0) <= SMALL * BLOCK_SIZE
    const blocks =
      small || !blob.complete ? await createBlocks({ digest: blob.digest, store, signer, log }) : undefined
    return {
      digest: blob.digest,
      size: blob.size,
      ...(blob.mediaType ? { mediaType: blob.mediaType } : {}),
      cuts: blocks?.cuts(0, cuts).map(packCut) ?? [],
      ...(blocks && !blob.complete ? { have: blocks.bits() } : {}),
    }
  }

  const isTold = (blob: Blob): boolean => blob.size !== undefined && (blob.complete || blob.bytesKept > 0)

  async function send(peer: PeerId, blobs: Blob[], cuts = SMALL): Promise<void> {
    for (let i = 0; i < blobs.length; i += BATCH) {
      const batch = []
      // One after the other: the names of a large share's blocks take megabytes while they are counted.
      for (const blob of blobs.slice(i, i + BATCH)) batch.push(await entry(blob, cuts))
      await rpc
        .request(peer, 'announce', { blobs: batch }, { timeoutMs: 5000, signal: closing.signal })
        .catch((error) => log.debug({ peer, error: String(error) }, 'announcement failed'))
    }
  }

  /** After a change of the site: to each node what it newly coordinates. */
  async function again(): Promise<void> {
    const before = told
    const now = siteOf()
    if (before.join() === now.join()) return
    told = now
    const news = new Map<PeerId, Blob[]>()
    for await (const blob of store.blobs()) {
      if (closing.signal.aborted) return
      if (!isTold(blob)) continue
      const old = coordinators(blob.digest, before)
      for (const peer of coordinators(blob.digest, now)) {
        if (peer === self || old.includes(peer)) continue
        const list = news.get(peer)
        if (list) list.push(blob)
        else news.set(peer, [blob])
      }
    }
    await Promise.all([...news].map(([peer, blobs]) => send(peer, blobs)))
  }

  const stop = members.onChange(() => {
    clearTimeout(timer)
    timer = setTimeout(() => {
      again().catch((error) => log.warn({ error: String(error) }, 'announcing the store failed'))
    }, SETTLE_MS)
  })

  function tell(digest: Digest): void {
    const told = async (): Promise<void> => {
      const blob = await store.blob(digest)
      if (!blob || !isTold(blob)) return
      const peers = coordinators(digest, siteOf()).filter((peer) => peer !== self)
      await Promise.all(peers.map((peer) => send(peer, [blob], SHARE_CUTS)))
    }
    told().catch((error) => log.warn({ digest, error: String(error) }, 'announcing a blob failed'))
  }

  return {
    complete: tell,
    share: tell,
    incomplete(digest) {
      const tell = async (): Promise<void> => {
        const blocks = await createBlocks({ digest, store, signer, log })
        for (const peer of coordinators(digest, siteOf())) {
          if (peer !== self) rpc.notify(peer, 'correct', { digest, have: blocks.bits() })
        }
      }
      tell().catch((error) => log.debug({ digest, error: String(error) }, 'correcting a blob failed'))
    },
    close() {
      clearTimeout(timer)
      stop()
      closing.abort()
    },
  }
}
