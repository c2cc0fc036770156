import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore } from '../../blockstore/index.ts'
import { bitfield, bitIndexes, countBits, hasBit, setBit } from '../../scheduler/index.ts'
import { type BufferPool, fields, type Signer } from '../tasks/index.ts'
import type { Exchange, Manager, Membership, PeerId, Rpc } from '../types.ts'
import type { Catalog } from './catalog.ts'
import { createKeeping } from './keeping.ts'
import type { Layout } from './layout.ts'
import type { Holding } from './messages.ts'
import { createPeers } from './peers.ts'
import { callRoll } from './roll-call.ts'
import { lengthOf } from './spreading.ts'
import { storeImage } from './store.ts'
import { createTaking } from './taking.ts'
import type { Repaired, StoredImage, StoredState, Storing } from './types.ts'

const REPAIR_MS = 30 * 60_000

export interface StoringOptions {
  /** Bytes that this node offers for the site's images; 0: it keeps nothing. */
  offer: number
  /** So long a node's share stays its own when it is away, ms. */
  leaveAfterMs: number
  /** Bytes a second that this node takes when copies are made again or move; undefined: no limit. */
  repairRate?: number | undefined
}

/** See Storing in types.ts. The node's share is served from now on; records come from the catalog. */
export function createStoring(deps: {
  members: Membership
  rpc: Rpc
  exchange: Exchange
  signer: Signer
  store: BlockStore
  pool: BufferPool
  catalog: Catalog
  layout: Layout
  open: Manager['open']
  /** More of the blob is here and is to be found by others. */
  onShare: (digest: Digest) => void
  onBytes: (count: number) => void
  options: StoringOptions
  log: Log
}): Storing & { /** The store lost blocks of the blob. */ lost(digest: Digest): void } {
  const { members, rpc, store, catalog, layout, log } = deps
  const { offer, leaveAfterMs, repairRate } = deps.options
  const self = members.self.id
  const taking = createTaking({ ...deps, repairRate })
  const peers = createPeers({ self, rpc, taking, keeperOf: layout.keeperOf })
  const keeping = createKeeping({ self, catalog, layout, peers, taking, store, orphanMs: leaveAfterMs, log })

  catalog.ready
    .then(() => catalog.offer(offer))
    .catch((error) => log.warn({ error: String(error) }, 'the offered space was not told'))

  async function round(now: boolean, signal: AbortSignal): Promise<Repaired> {
    if (now) {
      await callRoll({ members, rpc, layout, signal })
      layout.giveUp()
    }
    return keeping.round(signal, !now)
  }

  rpc.handle('copies.repair', async (_peer, body, signal) => ({
    ...(await round(fields(body).now === true, signal)),
  }))

  async function list(): Promise<StoredState[]> {
    await catalog.ready
    const images = catalog.images().sort((a, b) => (a.name < b.name ? -1 : 1))
    const digests = [...new Set(images.flatMap((image) => image.blobs.map((blob) => blob.digest)))]
    const answers = await keeping.ask(digests, AbortSignal.timeout(10_000))
    const at = new Map(digests.map((digest, index) => [digest, index]))
    return images.map((image) => describe(image, self, answers, at))
  }

  return {
    async store({ name, digest, copies, blobs, anonymous }, { origin, signal, onProgress = () => {} }) {
      if (!Number.isSafeInteger(copies) || copies < 1 || copies > 1024)
        throw new ShoalError('USAGE', `copies must be a number from 1 to 1024, not ${copies}`)
      if (name === '' || name.length > 900)
        throw new ShoalError('NAME_INVALID', `not an image's name: ${name}`)
      const open = anonymous === true ? { anonymous: true } : {}
      const image: StoredImage = {
        name,
        digest,
        copies,
        blobs: once(blobs),
        site: members.self.site,
        ...open,
      }
      await storeImage({ ...deps, image, origin, onProgress, signal, catalog, layout, keeping, peers })
      keeping.kick()
    },
    async forget(name, signal) {
      await catalog.ready
      return catalog.remove(name, signal)
    },
    async find(name) {
      await catalog.ready
      return catalog.image(name)
    },
    async ofRepository(label) {
      await catalog.ready
      return catalog
        .images()
        .filter(({ name }) => name.startsWith(`${label}:`) || name.startsWith(`${label}@`))
    },
    list,
    async repair({ now, signal }) {
      const others = layout.live().filter((peer) => peer !== self)
      const told = others.map(async (peer) =>
        readRepaired(await rpc.request(peer, 'copies.repair', { now }, { timeoutMs: REPAIR_MS, signal })),
      )
      const answers = await Promise.allSettled([round(now, signal), ...told])
      signal.throwIfAborted()
      const total = { copied: 0, bytes: 0, lost: 0 }
      for (const answer of answers) {
        if (answer.status === 'rejected') {
          log.warn({ error: String(answer.reason) }, 'a node did not repair')
          continue
        }
        total.copied += answer.value.copied
        total.bytes += answer.value.bytes
        total.lost += answer.value.lost
      }
      return total
    },
    lost: keeping.lost,
    async close() {
      taking.close()
      await keeping.close()
      layout.close()
      catalog.close()
    },
  }
}

function once(blobs: StoredImage['blobs']): StoredImage['blobs'] {
  return [...new Map(blobs.map((blob) => [blob.digest, blob])).values()]
}

function readRepaired(body: unknown): Repaired {
  const f = fields(body)
  return { copied: Number(f.copied) || 0, bytes: Number(f.bytes) || 0, lost: Number(f.lost) || 0 }
}

function describe(
  image: StoredImage,
  self: PeerId,
  answers: ReadonlyMap<PeerId, Holding[]>,
  at: ReadonlyMap<Digest, number>,
): StoredState {
  const state = { size: 0, bytesHere: 0, bytesKept: 0, bytesInSite: 0 }
  let copiesNow = Number.POSITIVE_INFINITY
  let startable = true
  for (const blob of image.blobs) {
    state.size += blob.size
    const count = Math.ceil(blob.size / BLOCK_SIZE)
    const copies = new Uint32Array(count)
    const found = bitfield(count)
    for (const [peer, held] of answers) {
      const { here, kept } = held[at.get(blob.digest)!]!
      for (const index of bitIndexes(here)) {
        if (index >= count) continue
        const bytes = lengthOf(blob.size, index)
        const isKept = hasBit(kept, index)
        setBit(found, index)
        state.bytesInSite += bytes
        if (isKept) copies[index]!++
        if (peer !== self) continue
        state.bytesHere += bytes
        if (isKept) state.bytesKept += bytes
      }
    }
    for (const each of copies) copiesNow = Math.min(copiesNow, each)
    if (countBits(found) < count) startable = false
  }
  return { ...image, ...state, copiesNow: Number.isFinite(copiesNow) ? copiesNow : 0, startable }
}
