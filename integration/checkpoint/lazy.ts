import type { Digest, Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { SharedRecords } from '../../manager/index.ts'
import type { Hosted } from '../../proxy/index.ts'
import type { createCheckpoints } from './checkpoints.ts'
import { PREFIX_KEY } from './document.ts'

type Made = Awaited<ReturnType<typeof createCheckpoints>>

const LOOK_MS = 60_000

/** Checkpoints that are loaded when somebody asks for them, or when there is something to do: a daemon that has none pays nothing. */
export interface LazyCheckpoints {
  get(): Promise<Made>
  /** For the proxy, before they are loaded. */
  readonly served: Hosted
  close(): Promise<void>
}

export function createLazyCheckpoints(deps: {
  records: SharedRecords
  store: Pick<BlockStore, 'records'>
  make: () => Promise<Made>
  log: Log
}): LazyCheckpoints {
  const { records, store, make, log } = deps
  let made: Promise<Made> | undefined
  let timer: NodeJS.Timeout | undefined
  let closed = false

  const get = (): Promise<Made> => {
    made ??= make()
    made.catch(() => {
      made = undefined
    })
    return made
  }

  async function any(entries: AsyncIterable<unknown>): Promise<boolean> {
    for await (const _ of entries) return true
    return false
  }

  /** A container that is frozen, or a plan, does not wait; what the cluster has may expire. */
  async function look(): Promise<void> {
    const left =
      (await any(store.records('checkpoints.unfinished').entries())) ||
      (await any(store.records('checkpoints.schedules').entries())) ||
      (await any(records.entries(PREFIX_KEY)))
    if (closed) return
    if (left) await get()
    else timer = setTimeout(() => void begin(), LOOK_MS).unref()
  }

  const begin = (): Promise<void> =>
    look().catch((error) => {
      log.error({ error: String(error) }, 'checkpoints could not be taken up')
      if (!closed) timer = setTimeout(() => void begin(), LOOK_MS).unref()
    })
  const begun = begin()

  const served = async (): Promise<Hosted> => (await get()).served
  return {
    get,
    served: {
      manifest: async (repository, reference) => (await served()).manifest(repository, reference),
      blob: async (repository, digest) => (await served()).blob(repository, digest),
      tags: async (repository) => (await served()).tags(repository),
      referrers: async (repository, subject) => (await served()).referrers(repository, subject),
      async isSecret(digest: Digest) {
        return (await any(records.entries(PREFIX_KEY))) && (await served()).isSecret(digest)
      },
    },
    async close() {
      closed = true
      clearTimeout(timer)
      await begun
      await (await made?.catch(() => undefined))?.close()
    },
  }
}
