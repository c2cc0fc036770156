import { setTimeout as sleep } from 'node:timers/promises'
import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Manager, Origin, Storing } from '../../manager/types.ts'
import type { Part } from '../local/index.ts'

/** When copies that could not be made are tried again. */
const AGAIN_MS = 30_000

/** `quorum`: a push is acknowledged when all of it has its copies; `local-first`: when it is whole here, copies follow. */
export type AckPolicy = 'quorum' | 'local-first'

/** A pushed image: all the blobs that it needs. */
export interface Pushed {
  digest: Digest
  blobs: Part[]
}

/** Sees to it that what was pushed stays: on this disk till it has its copies, and in the site then. */
export interface Keeping {
  /**
   * Resolves when the image may be acknowledged. Nothing of it is evicted here from now on.
   * @throws NO_QUORUM | STORE_FULL | UPSTREAM_UNREACHABLE (a blob that was pushed to another node is out of reach)
   */
  secure(name: string, image: Pushed, signal: AbortSignal): Promise<void>
  /** It was acknowledged: what is still to be done for it is done in the background, over restarts. */
  settle(name: string): Promise<void>
  /** It is deleted, or its push failed: nothing needs to be kept of it. */
  forget(name: string): Promise<void>
  /** Takes up what a run before this one left. */
  resume(): Promise<void>
  close(): Promise<void>
}

export function createKeeping(parts: {
  manager: Pick<Manager, 'open'>
  store: BlockStore
  storing: Pick<Storing, 'store' | 'forget'>
  /** Tells which pushes came to an end and were not taken back, here or on another node. */
  isAcknowledged: (name: string) => Promise<boolean>
  elsewhere: (digest: Digest) => Origin
  copies: number
  policy: AckPolicy
  log: Log
}): Keeping {
  const { manager, store, storing, isAcknowledged, elsewhere, copies, policy, log } = parts
  /** What has not got its copies yet. */
  const pending = store.records<Pushed>('push.pending')
  const holds = new Map<string, (() => void)[]>()
  /** Pushes of this run that have their copies. */
  const copied = new Set<string>()
  const closing = new AbortController()
  const spreading = new Map<string, { stop: AbortController; done: Promise<void> }>()

  function hold(name: string, { blobs }: Pushed): void {
    release(name)
    holds.set(
      name,
      blobs.map(({ digest }) => store.hold(digest)),
    )
  }

  function release(name: string): void {
    for (const letGo of holds.get(name) ?? []) letGo()
    holds.delete(name)
  }

  /** All of it on this disk, in our own files: a part may have been pushed to another node, or lie in containerd's. */
  async function bringHere({ blobs }: Pushed, signal: AbortSignal): Promise<void> {
    for (const { digest, size } of blobs) {
      if (!(await store.blob(digest))?.complete) {
        const origin = elsewhere(digest)
        const blob = await manager.open({ digest, size, origin, priority: 'client', signal })
        try {
          await blob.done
        } finally {
          blob.close()
        }
      }
      await store.own(digest, signal)
    }
  }

  /** The one place that has copies made. */
  async function spread(name: string, { digest, blobs }: Pushed, signal: AbortSignal): Promise<void> {
    await storing.store({ name, digest, copies, blobs }, { origin: (blob) => elsewhere(blob.digest), signal })
  }

  async function done(name: string): Promise<void> {
    await pending.delete(name)
    copied.delete(name)
    release(name)
  }

  async function inBackground(name: string, image: Pushed, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await spread(name, image, signal)
        await done(name)
        if (!(await isAcknowledged(name))) await storing.forget(name)
        return
      } catch (error) {
        if (signal.aborted) return
        log.warn({ image: name, error: String(error) }, 'a pushed image has not got its copies yet')
        await sleep(AGAIN_MS, undefined, { signal, ref: false }).catch(() => {})
      }
    }
  }

  async function stopSpreading(name: string): Promise<void> {
    const running = spreading.get(name)
    running?.stop.abort(new ShoalError('ABORTED', 'the image is pushed again, or deleted'))
    await running?.done
  }

  function startSpreading(name: string, image: Pushed): void {
    const stop = new AbortController()
    const signal = AbortSignal.any([stop.signal, closing.signal])
    const done = inBackground(name, image, signal)
      .catch((error: unknown) => log.warn({ image: name, error: String(error) }, 'keeping an image failed'))
      .finally(() => spreading.delete(name))
    spreading.set(name, { stop, done })
  }

  return {
    async secure(name, image, signal) {
      await stopSpreading(name)
      hold(name, image)
      await pending.put(name, image)
      copied.delete(name)
      if (policy !== 'quorum') return bringHere(image, signal)
      await spread(name, image, signal)
      copied.add(name)
    },
    async settle(name) {
      const image = await pending.get(name)
      if (!image) return
      if (copied.has(name)) await done(name)
      else startSpreading(name, image)
    },
    async forget(name) {
      await stopSpreading(name)
      await pending.delete(name)
      copied.delete(name)
      release(name)
      await storing.forget(name)
    },
    async resume() {
      for await (const [name, image] of pending.entries()) {
        hold(name, image)
        if (!(await isAcknowledged(name))) await this.forget(name)
        else startSpreading(name, image)
      }
    },
    async close() {
      closing.abort(new ShoalError('ABORTED', 'the node is closing'))
      await Promise.all([...spreading.values()].map(({ done }) => done))
      for (const name of [...holds.keys()]) release(name)
    },
  }
}
