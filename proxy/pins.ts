import { type Digest, type Log, ShoalError } from '../base/index.ts'
import type { BlockStore } from '../blockstore/types.ts'
import type { Image, Images } from './images.ts'
import { formatReference, parseReference } from './reference.ts'

interface PinRecord {
  /** Of what the name pointed to when it was pinned. */
  digest: Digest
  blobs: Digest[]
}

export interface PinnedImage extends Image {
  pinned: boolean
}

/**
 * Images that are not evicted. A blob stays pinned while any pinned image lists it. What a tag points to is pinned as it is at
 * that moment: a tag that moved on is pinned again by whoever wants it.
 */
export interface Pins {
  /** @throws NAME_INVALID | DIGEST_INVALID | NOT_FOUND (no such image is listed) | STORE_FULL */
  pin(reference: string): Promise<PinnedImage>
  /** False if it was not pinned. */
  unpin(reference: string): Promise<boolean>
  /** All images, with what is pinned. */
  list(): Promise<PinnedImage[]>
}

export function createPins(parts: {
  store: BlockStore
  images: Images
  defaultHost: string
  log: Log
}): Pins {
  const { store, images, defaultHost, log } = parts
  const records = store.records<PinRecord>('proxy.pins')
  /** One change at a time: two images may share blobs. */
  let tail: Promise<unknown> = resume().catch((error: unknown) =>
    log.warn({ error: String(error) }, 'pins could not be looked through'),
  )

  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = tail.then(work)
    tail = turn.catch(() => {})
    return turn
  }

  /** What was noted, but cut short by a crash. */
  async function resume(): Promise<void> {
    const noted = await Array.fromAsync(records.entries())
    for (const digest of new Set(noted.flatMap(([, { blobs }]) => blobs))) {
      await store
        .pin(digest, true)
        .catch((error: unknown) => log.warn({ digest, error: String(error) }, 'a blob could not be pinned'))
    }
  }

  async function find(reference: string): Promise<{ name: string; image: Image | undefined }> {
    const wanted = parseReference(reference, defaultHost)
    const { host, repository, digest } = wanted
    const name = formatReference(digest === undefined ? wanted : { ...wanted, tag: undefined })
    const listed = await images.list()
    const image =
      listed.find((one) => one.name === name) ??
      listed.find((one) => one.digest === digest && one.host === host && one.repository === repository)
    return { name: image?.name ?? name, image }
  }

  /** Lets go of blobs that no pinned image lists any more. */
  async function release(candidates: Digest[], except: string): Promise<void> {
    const wanted = new Set<Digest>()
    for await (const [name, { blobs }] of records.entries()) {
      if (name !== except) for (const digest of blobs) wanted.add(digest)
    }
    for (const digest of candidates) if (!wanted.has(digest)) await store.pin(digest, false)
  }

  return {
    pin: (reference) =>
      inTurn(async () => {
        const { name, image } = await find(reference)
        if (!image) throw new ShoalError('NOT_FOUND', `${name} is not here; pull it first`)
        const { digest, blobs } = image
        const before = (await records.get(name))?.blobs ?? []
        // Noted first, with what goes: a crash in between leaves too much pinned until the next pin, not too little.
        await records.put(name, { digest, blobs: [...new Set([...before, ...blobs])] })
        for (const blob of blobs) await store.pin(blob, true)
        const gone = before.filter((blob) => !blobs.includes(blob))
        if (gone.length > 0) {
          await release(gone, name)
          await records.put(name, { digest, blobs })
        }
        return { ...image, pinned: true }
      }),
    unpin: (reference) =>
      inTurn(async () => {
        const { name } = await find(reference)
        const record = await records.get(name)
        if (!record) return false
        await release(record.blobs, name)
        await records.delete(name)
        return true
      }),
    list: async () => {
      const pinned = new Map(await Array.fromAsync(records.entries()))
      return (await images.list()).map((image) => ({
        ...image,
        pinned: pinned.get(image.name)?.digest === image.digest,
      }))
    },
  }
}
