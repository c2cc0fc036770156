import type { Storing } from '../manager/index.ts'
import type { Collected } from '../proxy/index.ts'
import type { StoreImage, StoreProgress, StoreWanted } from './api/index.ts'

/** What proxy/ tells of an image before it is stored. */
export type Collect = (request: StoreWanted, signal: AbortSignal) => Promise<Collected>

/** Storing as the API tells it: what the image is made of by the proxy, the rest by the manager. */
export function createStoreImage({ collect, storing }: { collect: Collect; storing: Storing }): StoreImage {
  return async (request, { signal, onProgress }) => {
    const { name, digest, blobs, anonymous, origin } = await collect(request, signal)
    let last: StoreProgress = {
      name,
      digest,
      blobs: blobs.length,
      blobsDone: 0,
      bytes: blobs.reduce((sum, { size }) => sum + size, 0),
      bytesDone: 0,
    }
    onProgress(last)
    const image = { name, digest, copies: request.copies, blobs, ...(anonymous ? { anonymous } : {}) }
    await storing.store(image, {
      origin,
      signal,
      onProgress: (progress) => {
        last = { name, digest, ...progress }
        onProgress(last)
      },
    })
    return { ...last, blobsDone: last.blobs, bytesDone: last.bytes }
  }
}
