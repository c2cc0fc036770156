import type { PartProgress, PinnedImage, Platform, PullResult } from '../proxy/index.ts'
import type { ImageInfo, ImagePins, PullBlob, PullImage } from './api/index.ts'

/** What proxy/ offers for pulling and listing, with its parts bound. */
export interface Puller {
  pull(options: {
    reference: string
    platform?: Platform
    signal: AbortSignal
    onProgress: (part: PartProgress) => void
  }): Promise<PullResult>
  parsePlatform(text: string): Platform
  list(): Promise<PinnedImage[]>
}

function blobOf({ digest, kind, size, done, sources, complete }: PartProgress): PullBlob {
  const touched = done > 0 || complete
  return {
    digest,
    kind,
    size,
    bytesHere: done,
    state: complete ? 'done' : touched ? 'running' : 'waiting',
    sources,
  }
}

/** Pulls as the API tells them: all parts at each step, in the order of the manifest as far as it is known. */
export function createPull(puller: Puller): PullImage {
  return async ({ reference, platform }, { signal, onProgress }) => {
    const blobs = new Map<string, PullBlob>()
    const result = await puller.pull({
      reference,
      ...(platform === undefined ? {} : { platform: puller.parsePlatform(platform) }),
      signal,
      onProgress: (part) => {
        blobs.set(part.digest, blobOf(part))
        onProgress({ blobs: [...blobs.values()] })
      },
    })
    const { digest, size, sources, parts } = result
    return { digest, blobs: parts.map(blobOf), total: { size, sources } }
  }
}

function imageInfo(image: PinnedImage): ImageInfo {
  const { name, digest, platforms, size, bytesHere, bytesKept, bytesBorrowed } = image
  const { blobs, pinned, pulledAt } = image
  return {
    reference: name,
    digest,
    platforms,
    size,
    bytesHere,
    bytesKept,
    bytesBorrowed,
    complete: bytesHere >= size,
    pinned,
    blobs: blobs.length,
    usedAt: pulledAt,
  }
}

/** Images as the API tells them. */
export function createImageList(puller: Puller): () => Promise<ImageInfo[]> {
  return async () => (await puller.list()).map(imageInfo)
}

/** Pins as the API tells them. */
export function createPins(pins: {
  pin(reference: string): Promise<PinnedImage>
  unpin(reference: string): Promise<boolean>
}): ImagePins {
  return {
    pin: async (reference) => imageInfo(await pins.pin(reference)),
    unpin: (reference) => pins.unpin(reference),
  }
}
