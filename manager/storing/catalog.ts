import { type Digest, isDigest, type Log } from '../../base/index.ts'
import type { SharedRecord, SharedRecords } from '../records/types.ts'
import type { PeerId } from '../types.ts'
import type { StoredBlob, StoredImage } from './types.ts'

/** A blob that the site keeps. */
export interface WantedBlob extends StoredBlob {
  /** The most that one of its images wants. */
  copies: number
  /** Only an image that is still being stored wants it: whoever stores it sees to it. */
  pending: boolean
}

/** The shared records about stored images, in memory and checked. */
export interface Catalog {
  /** Resolves when the records that were here at the start are read. */
  readonly ready: Promise<void>
  images(): StoredImage[]
  image(name: string): StoredImage | undefined
  blob(digest: Digest): WantedBlob | undefined
  blobs(): WantedBlob[]
  /** Bytes that each node of the site offers. */
  offers(): ReadonlyMap<PeerId, number>
  put(image: StoredImage, signal: AbortSignal): Promise<void>
  /** False if there was none. */
  remove(name: string, signal?: AbortSignal): Promise<boolean>
  /** Tells the others that an image is being stored by this node, so that nobody lets go what is kept of it; returns the end of it. */
  begin(image: StoredImage): Promise<() => Promise<void>>
  offer(bytes: number): Promise<void>
  /** `freed`: blobs that nothing wants any longer. Returns the unsubscriber. */
  onChange(listener: (freed: Digest[]) => void): () => void
  close(): void
}

const MAX_BLOBS = 4096
const MAX_COPIES = 1024

/** @param counts whether a node is about, or was a short time ago: what others are storing goes when they are gone */
export function createCatalog(deps: {
  records: SharedRecords
  self: PeerId
  site: string
  counts: (peer: PeerId) => boolean
  log: Log
}): Catalog {
  const { records, self, site, counts, log } = deps
  // A site may be called `a/b`: then it is not under the site `a`.
  const place = encodeURIComponent(site)
  const storedPrefix = `stored/${place}/`
  const pendingPrefix = `storing/${place}/`
  const offerPrefix = 'offer/'
  const stored = new Map<string, StoredImage>()
  const pending = new Map<string, { image: StoredImage; by: PeerId }>()
  const offers = new Map<PeerId, number>()
  const listeners = new Set<(freed: Digest[]) => void>()
  let blobs: Map<Digest, WantedBlob> | undefined
  /** What this node last said that it offers. */
  let offered: number | undefined
  /** Keys that changed while all are read for the first time: what is read of them may be older. */
  let newer: Set<string> | undefined = new Set()

  function wanted(): Map<Digest, WantedBlob> {
    if (blobs) return blobs
    blobs = new Map()
    const add = (image: StoredImage, isPending: boolean): void => {
      for (const blob of image.blobs) {
        const known = blobs?.get(blob.digest)
        const copies = Math.max(image.copies, known?.copies ?? 0)
        blobs?.set(blob.digest, { ...blob, ...known, copies, pending: isPending && known?.pending !== false })
      }
    }
    for (const image of stored.values()) add(image, false)
    for (const { image, by } of pending.values()) if (counts(by)) add(image, true)
    return blobs
  }

  function take({ key, value, stamp }: SharedRecord): void {
    if (key.startsWith(storedPrefix)) {
      const image = readImage(value, site, key.slice(storedPrefix.length))
      if (image) stored.set(key, { ...image, storedAt: stamp.ms })
      else stored.delete(key)
    } else if (key.startsWith(pendingPrefix)) {
      const [by = '', ...rest] = key.slice(pendingPrefix.length).split('/')
      const image = readImage(value, site, rest.join('/'))
      if (image) pending.set(key, { image, by })
      else pending.delete(key)
    } else {
      const bytes = readOffer(value, site)
      if (bytes === undefined) offers.delete(key.slice(offerPrefix.length))
      else offers.set(key.slice(offerPrefix.length), bytes)
    }
    blobs = undefined
  }

  function changed(record: SharedRecord): void {
    newer?.add(record.key)
    const before = stored.get(record.key) ?? pending.get(record.key)?.image
    take(record)
    // Who was away for long was forgotten meanwhile, and says it again.
    if (record.key === offerPrefix + self && record.value === undefined && offered !== undefined) {
      offer(offered).catch((error) => log.warn({ error: String(error) }, 'the offered space was not told'))
    }
    // Most records are new ones: then there is no need to go through what all the others want.
    const freed = before?.blobs.map(({ digest }) => digest).filter((digest) => !wanted().has(digest)) ?? []
    for (const listener of listeners) listener(freed)
  }

  async function offer(bytes: number): Promise<void> {
    await records.put(offerPrefix + self, { site, bytes }, { copies: 1 })
  }

  const stops = [storedPrefix, pendingPrefix, offerPrefix].map((prefix) => records.onChange(prefix, changed))

  async function load(): Promise<void> {
    for (const prefix of [storedPrefix, pendingPrefix, offerPrefix]) {
      for await (const record of records.entries(prefix)) if (!newer?.has(record.key)) take(record)
    }
    newer = undefined
    // What this node was storing when it ended is not being stored any more.
    for (const [key, { by }] of pending) {
      if (by === self) await records.put(key, undefined, { copies: 1 })
    }
  }
  const ready = load().catch((error) => log.error({ error: String(error) }, 'reading what is stored failed'))

  return {
    ready,
    images: () => [...stored.values()],
    image: (name) => stored.get(storedPrefix + name),
    blob: (digest) => wanted().get(digest),
    blobs: () => {
      // Who counts changes without a record.
      blobs = undefined
      return [...wanted().values()]
    },
    offers: () => offers,
    async put(image, signal) {
      const { name, site: _, ...value } = image
      await records.put(storedPrefix + name, value, { copies: image.copies, signal })
    },
    async remove(name, signal) {
      if (!stored.has(storedPrefix + name)) return false
      await records.put(storedPrefix + name, undefined, { copies: 1, signal })
      return true
    },
    async begin(image) {
      const key = `${pendingPrefix}${self}/${image.name}`
      const { name: _, site: __, ...value } = image
      await records.put(key, value, { copies: 1 })
      return async () => void (await records.put(key, undefined, { copies: 1 }))
    },
    async offer(bytes) {
      offered = bytes
      if (offers.get(self) !== bytes) await offer(bytes)
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close() {
      for (const stop of stops) stop()
    },
  }
}

const isSize = (value: unknown): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= 2 ** 40

function readOffer(value: unknown, site: string): number | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { site: of, bytes } = value as Record<string, unknown>
  return of === site && Number.isSafeInteger(bytes) && (bytes as number) >= 0 ? (bytes as number) : undefined
}

/** What a record says of an image; undefined where it is deleted or nothing that this node understands. */
function readImage(value: unknown, site: string, name: string): StoredImage | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { digest, copies, blobs, anonymous } = value as Record<string, unknown>
  if (typeof digest !== 'string' || !isDigest(digest) || !Array.isArray(blobs)) return undefined
  if (!Number.isSafeInteger(copies) || (copies as number) < 1 || (copies as number) > MAX_COPIES)
    return undefined
  if (blobs.length > MAX_BLOBS) return undefined
  const read: StoredBlob[] = []
  for (const blob of blobs as Record<string, unknown>[]) {
    if (typeof blob !== 'object' || blob === null) return undefined
    const { digest: of, size, mediaType } = blob
    if (typeof of !== 'string' || !isDigest(of) || !isSize(size)) return undefined
    const type = typeof mediaType === 'string' && mediaType.length <= 255 ? { mediaType } : {}
    read.push({ digest: of, size, ...type })
  }
  const open = anonymous === true ? { anonymous: true } : {}
  return { name, digest, copies: copies as number, blobs: read, site, ...open }
}
