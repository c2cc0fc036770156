import { type Digest, isShoalError, type Log, ShoalError } from '../base/index.ts'
import type { BlockStore } from '../blockstore/types.ts'
import type { Manager, Origin } from '../manager/types.ts'
import type { Images } from './images.ts'
import { until } from './registry/share.ts'
import type { Upstream } from './types.ts'

/** Blobs that wait to be repaired; a disk that fails as a whole must not fill the memory too. */
const MAX_WAITING = 10_000

/** Fetches again what a blob lost to a bad disk: from neighbours, and from upstream where a repository is known that has it. */
export interface Repair {
  /** Makes the blob whole, after those that were asked for before. Failures are logged. */
  want(digest: Digest): void
  close(): Promise<void>
}

/**
 * Hears of damage by itself, and sees to blobs that were whole or are pinned: what was in parts only is cache, or a share,
 * which is its keeper's affair. One blob at a time and behind what clients wait for.
 */
export function createRepair(parts: {
  store: BlockStore
  manager: Pick<Manager, 'open'>
  upstream: Pick<Upstream, 'origin'>
  images: Pick<Images, 'placeOf'>
  log: Log
}): Repair {
  const { store, manager, upstream, images, log } = parts
  const waiting = new Set<Digest>()
  const stop = new AbortController()
  const { signal } = stop
  let working: Promise<void> | undefined

  async function originOf(digest: Digest): Promise<Origin> {
    const place = await images.placeOf(digest)
    return place ? upstream.origin(place.ref, place.kind, digest, { kind: 'node' }) : NOWHERE
  }

  async function mend(digest: Digest): Promise<void> {
    const { size, mediaType } = (await store.blob(digest)) ?? {}
    const blob = await manager.open({
      digest,
      origin: await originOf(digest),
      ...(size === undefined ? {} : { size }),
      ...(mediaType === undefined ? {} : { mediaType }),
      priority: 'preheat',
      signal,
    })
    try {
      await until(blob.done, signal)
    } finally {
      blob.close()
    }
  }

  async function work(): Promise<void> {
    for (const digest of waiting) {
      waiting.delete(digest)
      if (signal.aborted) return
      try {
        await mend(digest)
        log.info({ digest }, 'a damaged blob is whole again')
      } catch (error) {
        if (signal.aborted) return
        const code = isShoalError(error) ? error.code : undefined
        log.warn({ digest, code, error: String(error) }, 'a damaged blob could not be repaired')
      }
    }
  }

  function want(digest: Digest): void {
    if (signal.aborted || waiting.size >= MAX_WAITING) return
    waiting.add(digest)
    start()
  }

  function start(): void {
    working ??= work().finally(() => {
      working = undefined
      if (waiting.size > 0 && !signal.aborted) start()
    })
  }

  const unsubscribe = store.onDamaged((blob) => {
    if (blob.complete || blob.pinned) want(blob.digest)
  })

  return {
    want,
    async close() {
      unsubscribe()
      stop.abort(new ShoalError('ABORTED', 'the daemon is stopping'))
      await working
    },
  }
}

/** No repository is known: neighbours only. */
const NOWHERE: Origin = {
  label: 'repair',
  async fetch() {
    throw new ShoalError('UPSTREAM_UNREACHABLE', 'no repository is known that has the blob')
  },
}
