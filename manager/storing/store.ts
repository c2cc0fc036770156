import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore } from '../../blockstore/index.ts'
import { bitfield, fullBitfield } from '../../scheduler/index.ts'
import type { Manager, Membership, Origin, PeerId } from '../types.ts'
import { isEmpty, union, without } from './bits.ts'
import type { Catalog } from './catalog.ts'
import type { Keeping } from './keeping.ts'
import { type Layout, sharesOf } from './layout.ts'
import type { Holding } from './messages.ts'
import type { Peers } from './peers.ts'
import { spread } from './spreading.ts'
import type { StoredBlob, StoredImage, Storing } from './types.ts'

/** How often a blob is spread anew, without the nodes that failed. */
const TRIES = 3
/** So long a node that just came is waited for to say what space it offers. */
const OFFER_MS = 5000
const OFFER_POLL_MS = 100
const TRIM_TRIES = 20
const TRIM_MS = 50

type Open = Manager['open']
type StoreOptions = Parameters<Storing['store']>[1]

/** Stores one image: blob by blob it comes into the site, where it is not, and is spread while the next one comes. */
export async function storeImage(options: {
  image: StoredImage
  origin: ((blob: StoredBlob) => Origin) | undefined
  onProgress: NonNullable<StoreOptions['onProgress']>
  signal: AbortSignal
  open: Open
  store: BlockStore
  members: Membership
  catalog: Catalog
  layout: Layout
  keeping: Keeping
  peers: Peers
  log: Log
}): Promise<void> {
  const { image, origin, signal, open, store, catalog, layout, keeping, peers, log } = options
  const self = options.members.self.id
  /** Nodes that failed to take a share: this image does without them. */
  const failed = new Set<PeerId>()
  const sizes = image.blobs.map((blob) => blob.size)
  const progress = {
    blobs: sizes.length,
    blobsDone: 0,
    bytes: sizes.reduce((a, b) => a + b, 0),
    bytesDone: 0,
  }

  async function holdingsOf(blob: StoredBlob): Promise<Map<PeerId, Holding>> {
    const answers = await keeping.ask([blob.digest], signal)
    return new Map([...answers].map(([peer, [held]]) => [peer, held!]))
  }

  /** Brings the blob into the site where a part of it is in nobody's store. Returns what lets go of it. */
  async function obtain(blob: StoredBlob): Promise<(() => Promise<void>) | undefined> {
    const holdings = await holdingsOf(blob)
    const here = [...holdings.values()].reduce((sum, held) => union(sum, held.here), bitfield(0))
    if (isEmpty(without(fullBitfield(Math.ceil(blob.size / BLOCK_SIZE)), here))) return undefined
    if (!origin) throw new ShoalError('NOT_FOUND', `a part of ${blob.digest} is nowhere in the site`)
    const { digest, size, mediaType } = blob
    const facts = { size, ...(mediaType === undefined ? {} : { mediaType }) }
    const opened = await open({ digest, origin: origin(blob), ...facts, priority: 'preheat', signal })
    try {
      await Promise.race([opened.done, aborted(signal)])
      if (opened.size !== size)
        throw new ShoalError('DIGEST_MISMATCH', `${digest} has ${opened.size} bytes, not ${size}`)
    } catch (error) {
      opened.close()
      throw error
    }
    return async () => {
      opened.close()
      await trim(blob)
    }
  }

  /** What is not this node's share has done its work. The task that brought it needs a moment to let go. */
  async function trim({ digest }: StoredBlob): Promise<void> {
    for (let tries = TRIM_TRIES; tries > 0; tries--) {
      await store.trim(digest, signal)
      const left = await store.blob(digest)
      if (!left || left.bytesHere <= left.bytesKept) return
      await new Promise((resolve) => setTimeout(resolve, TRIM_MS))
    }
  }

  async function give(blob: StoredBlob, letGo: (() => Promise<void>) | undefined): Promise<void> {
    try {
      for (let tries = 1; ; tries++) {
        const holdings = await holdingsOf(blob)
        const able = (peer: PeerId): boolean => holdings.has(peer) && !failed.has(peer)
        const nodes = layout.weigh(catalog.blobs(), catalog.offers(), able)
        const copies = Math.max(image.copies, catalog.blob(blob.digest)?.copies ?? 1)
        const shares = sharesOf({ ...blob, copies }, nodes)
        const done = await spread({
          blob,
          shares,
          holdings,
          peers,
          release: false,
          paced: false,
          onBytes: (bytes) => report(bytes / Math.min(copies, Math.max(1, nodes.length))),
          log,
          signal,
        })
        if (done.whole && shares.size > 0) break
        for (const [peer, share] of shares) {
          const has = holdings.get(peer)
          if (!has || !isEmpty(without(share, has.here))) failed.add(peer)
        }
        if (tries >= TRIES || failed.has(self)) {
          if (isShoalError(done.error, 'STORE_FULL')) throw done.error
          const message = `too few nodes took their share of ${blob.digest}`
          throw new ShoalError('NO_QUORUM', message, { cause: done.error })
        }
      }
    } finally {
      await letGo?.()
    }
  }

  let bytesShown = 0
  function report(bytes: number): void {
    bytesShown = Math.min(progress.bytes, bytesShown + bytes)
    progress.bytesDone = Math.max(progress.bytesDone, Math.round(bytesShown))
    options.onProgress({ ...progress })
  }

  /** Else an image stored in the first moments of a site would be on fewer nodes than could have it. */
  async function offered(): Promise<void> {
    for (const end = performance.now() + OFFER_MS; performance.now() < end; ) {
      if (layout.live().every((peer) => catalog.offers().has(peer))) return
      signal.throwIfAborted()
      await new Promise((resolve) => setTimeout(resolve, OFFER_POLL_MS))
    }
  }

  await catalog.ready
  await offered()
  const end = await catalog.begin(image)
  try {
    let giving: Promise<void> = Promise.resolve()
    let failure: unknown
    let doneBytes = 0
    for (const blob of image.blobs) {
      signal.throwIfAborted()
      if (failure) break
      if (blob.size === 0) continue
      let letGo: (() => Promise<void>) | undefined
      try {
        letGo = await obtain(blob)
      } catch (error) {
        if (!isShoalError(error, 'STORE_FULL')) throw await settled(giving, error)
        // There may be room for one blob at a time only.
        await giving
        letGo = await obtain(blob)
      }
      await giving
      giving = give(blob, letGo).then(() => {
        progress.blobsDone++
        doneBytes += blob.size
        bytesShown = doneBytes
        report(0)
      })
      giving.catch((error) => {
        failure = error
      })
    }
    await giving
    await catalog.put(image, signal)
  } finally {
    await end().catch((error) => log.warn({ error: String(error) }, 'the end of storing was not told'))
  }
}

/** The error, once the promise has ended whichever way. */
async function settled(promise: Promise<unknown>, error: unknown): Promise<unknown> {
  await promise.catch(() => {})
  return error
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const give = (): void => reject(new ShoalError('ABORTED', 'given up', { cause: signal.reason }))
    if (signal.aborted) give()
    signal.addEventListener('abort', give, { once: true })
  })
}
