import { type Digest, ShoalError } from '../base/index.ts'
import { BLOCK_SIZE, type BlockStore } from '../blockstore/index.ts'
import { type Announcer, type Coordinator, type Signer, signCut } from './tasks/index.ts'
import type { Manager } from './types.ts'

/** Blobs that are here in files which are not Shoal's: signed by this node like those it cut from upstream, and announced. */
export interface Borrowing {
  borrow(
    digest: Digest,
    path: string,
    options: Parameters<Manager['borrow']>[2] & {
      /** A task brings the blob here. */
      isBusy: () => boolean
    },
  ): Promise<boolean>
  /** A task is about to bring the blob here: a borrowing that reads its file gives way. */
  yield(digest: Digest): Promise<void>
}

export function createBorrowing(deps: {
  store: BlockStore
  signer: Signer
  announcer: Announcer
  coordinator: Coordinator
}): Borrowing {
  const { store, signer, announcer, coordinator } = deps
  const running = new Map<Digest, { abort: AbortController; ended: Promise<unknown> }>()

  const busy = (digest: Digest): ShoalError => new ShoalError('BUSY', `${digest} is on its way here`)

  return {
    async borrow(digest, path, { isBusy, signal, ...options }) {
      if (isBusy() || running.has(digest)) throw busy(digest)
      const abort = new AbortController()
      const borrowing = store.borrow(digest, path, {
        ...options,
        sign: ({ cid, offset, length }) =>
          signCut(signer, digest, { index: offset / BLOCK_SIZE, cid, length }),
        signal: AbortSignal.any([signal, abort.signal]),
      })
      running.set(digest, { abort, ended: borrowing.catch(() => {}) })
      try {
        const stands = await borrowing
        if (stands) {
          coordinator.share(digest)
          announcer.complete(digest)
        }
        return stands
      } catch (error) {
        if (abort.signal.aborted && !signal.aborted) throw busy(digest)
        throw error
      } finally {
        running.delete(digest)
      }
    },
    async yield(digest) {
      const borrowing = running.get(digest)
      if (!borrowing || (await store.blob(digest))?.complete) return
      borrowing.abort.abort()
      await borrowing.ended
    },
  }
}
