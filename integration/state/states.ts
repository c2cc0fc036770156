import { createReadStream } from 'node:fs'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Digest, Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager, Origin, StoredBlob } from '../../manager/index.ts'
import { type Blobs, createBlobs } from './blobs.ts'
import { createCrew, type Handlers } from './crew.ts'
import { createHandover } from './handover.ts'
import { createHolds } from './holds.ts'
import type { States } from './types.ts'
import type { CaptureResult } from './work/capture.ts'

const RECIPE_TYPE = 'application/vnd.shoal.state.recipe.v1+zstd'
const PACK_TYPE = 'application/vnd.shoal.state.pack.v1'

interface Made {
  digest: Digest
  size: number
  path: string
}

/**
 * States of workloads as packs and recipes; see README.md.
 * @param dir what it may make again or remove at any time: names of pages, files that are being made
 */
export function createStates(deps: {
  manager: Pick<Manager, 'open' | 'holds' | 'ingest'>
  store: BlockStore
  dir: string
  log: Log
}): States {
  const { manager, store, dir, log } = deps
  const crew = createCrew({ log })
  const holds = createHolds({ store, log })
  const making = join(dir, 'making')
  const closing = new AbortController()
  let captures = 0
  // What a killed process left.
  const swept = rm(making, { recursive: true, force: true }).then(() => mkdir(making, { recursive: true }))
  swept.catch(() => {})

  async function ready(): Promise<void> {
    await swept
    await holds.ready
  }

  /** Runs a job, with the blobs that it asks for. */
  async function run<T>(
    job: string,
    body: Record<string, unknown>,
    options: { origin?: (blob: StoredBlob) => Origin; signal: AbortSignal; handlers?: Handlers },
  ): Promise<{ value: T; fetched: number }> {
    const signal = AbortSignal.any([options.signal, closing.signal])
    const blobs: Blobs = createBlobs({ manager, store, origin: options.origin, give: crew.give, signal })
    try {
      const handlers = { ...blobs.handlers, ...options.handlers }
      const value = (await crew.run(job, body, { handlers, signal })) as T
      return { value, fetched: blobs.fetched() }
    } finally {
      blobs.close()
    }
  }

  async function ingest({ digest, size, path }: Made, mediaType: string, signal: AbortSignal): Promise<void> {
    const chunks = () => createReadStream(path, { highWaterMark: 2 ** 18 })
    await manager.ingest({ digest, size, mediaType, chunks, signal })
    await rm(path, { force: true })
  }

  return {
    async capture({ files, base, seal, signal }) {
      await ready()
      const name = `${captures++}`
      const releases: (() => void)[] = []
      const hold = (digest: Digest): void => void releases.push(store.hold(digest))
      let last: Promise<void> = Promise.resolve()
      try {
        const { value } = await run<CaptureResult>(
          'capture',
          { files, base, seal, dir, name },
          {
            signal,
            handlers: {
              /** Taken in while the next one is made. */
              async pack(pack: Made) {
                await last
                hold(pack.digest)
                last = ingest(pack, PACK_TYPE, signal)
                last.catch(() => {})
              },
            },
          },
        )
        await last
        const { recipe, packs, size, changed, added } = value
        hold(recipe.digest)
        await ingest(recipe, RECIPE_TYPE, signal)
        const blobs: StoredBlob[] = [
          { digest: recipe.digest, size: recipe.size, mediaType: RECIPE_TYPE },
          ...packs.map((pack) => ({ ...pack, mediaType: PACK_TYPE })),
        ]
        await holds.hold(
          recipe.digest,
          blobs.map(({ digest }) => digest),
        )
        return { recipe: recipe.digest, blobs, size, changed, added: added + recipe.size }
      } finally {
        await last.catch(() => {})
        for (const release of releases) release()
        await clean(name)
      }
    },

    async assemble({ recipe, dir, previous, seal, origin, signal }) {
      const { value, fetched } = await run<number>(
        'assemble',
        { recipe, previous, seal, dir },
        { origin, signal },
      )
      return { bytesWritten: value, bytesFetched: fetched }
    },

    async blobs(recipe, origin, signal, seal) {
      const { value } = await run<{ digest: Digest; size: number }[]>(
        'blobs',
        { recipe, seal },
        { origin, signal },
      )
      return value.map((blob, index) => ({ ...blob, mediaType: index === 0 ? RECIPE_TYPE : PACK_TYPE }))
    },

    async *read({ recipe, path, start, end, seal, origin, signal }) {
      const stop = new AbortController()
      const chunks = createHandover<Uint8Array>()
      const handlers: Handlers = {
        async chunk(announced: { at: number; length: number }) {
          const bytes = await crew.take(announced)
          stop.signal.throwIfAborted()
          await chunks.put(bytes)
        },
      }
      const either = AbortSignal.any([signal, stop.signal])
      const job = run('read', { recipe, path, start, end, seal }, { origin, signal: either, handlers })
      job.then(
        () => chunks.end(undefined),
        (error) => chunks.end(error),
      )
      try {
        yield* chunks.values()
      } finally {
        stop.abort(new DOMException('the reader ended', 'AbortError'))
        chunks.end(undefined)
        await job.catch(() => {})
      }
    },

    release: (recipe) => holds.release(recipe),

    async close() {
      closing.abort(new DOMException('states are closed', 'AbortError'))
      await crew.close()
      holds.close()
    },
  }

  async function clean(name: string): Promise<void> {
    const left = await readdir(making).catch(() => [])
    for (const file of left) if (file.startsWith(`${name}-`)) await rm(join(making, file), { force: true })
  }
}
