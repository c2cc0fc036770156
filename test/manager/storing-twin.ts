import { ShoalError } from '../../base/index.ts'
import type { StoredImage, Storing } from '../../manager/types.ts'

/**
 * Stored images without bytes: for tests of what is above. `store` takes effect when `gate` resolves; `stored` are the calls
 * so far.
 */
export function createStoringTwin(site = 'default') {
  const images = new Map<string, StoredImage>()
  const twin = {
    images,
    stored: [] as { name: string; digest: string; copies: number }[],
    repairs: [] as { now: boolean }[],
    gate: async (_signal: AbortSignal): Promise<void> => {},
    storing: {
      async store(image, { signal, onProgress }) {
        twin.stored.push({ name: image.name, digest: image.digest, copies: image.copies })
        const bytes = image.blobs.reduce((sum, { size }) => sum + size, 0)
        onProgress?.({ blobs: image.blobs.length, blobsDone: 0, bytes, bytesDone: Math.floor(bytes / 2) })
        await twin.gate(signal)
        if (signal.aborted) throw new ShoalError('ABORTED', 'given up')
        images.set(image.name, { ...image, site })
      },
      forget: async (name) => images.delete(name),
      find: async (name) => images.get(name),
      ofRepository: async (label) =>
        [...images.values()].filter(
          ({ name }) => name.startsWith(`${label}:`) || name.startsWith(`${label}@`),
        ),
      list: async () =>
        [...images.values()].map((image) => {
          const size = image.blobs.reduce((sum, blob) => sum + blob.size, 0)
          const bytesInSite = size * image.copies
          return {
            ...image,
            size,
            bytesHere: size,
            bytesKept: size,
            bytesInSite,
            copiesNow: image.copies,
            startable: true,
          }
        }),
      async repair({ now }) {
        twin.repairs.push({ now })
        return { copied: 3, bytes: 3 * 2 ** 20, lost: 0 }
      },
      close: async () => {},
    } as Storing,
  }
  return twin
}
