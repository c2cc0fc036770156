import { createReadStream } from 'node:fs'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Digest, isDigest, type Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager, Origin, StoredBlob } from '../../manager/index.ts'
import { type Blobs, createBlobs } from './blobs.ts'
import { createCrew, type Handlers } from './crew.ts'
import { createHandover } from './handover.ts'
import { createHolds } from './holds.ts'
import { createSpool, type Spool } from './spool.ts'
import type { States } from './types.ts'
import type { CaptureResult } from './work/capture.ts'

const RECIPE_TYPE = 'application/vnd.shoal.state.recipe.v1+zstd'
/** Of what `read` gives at once; as much as a job hands over. */
const CHUNK = 2 ** 18
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
  const pages = join(dir, 'pages')
  const closing = new AbortController()
  let captures = 0
  let spools = 0
  let capturing = 0
  // What a killed process left.
  const swept = sweep()
  swept.catch(() => {})

  async function sweep(): Promise<void> {
    await rm(making, { recursive: true, force: true })
    await mkdir(making, { recursive: true, mode: 0o700 })
    await forgetNames()
  }

  /** Names of pages of packs that went are of no use. */
  async function forgetNames(): Promise<void> {
    for (const file of await readdir(pages).catch(() => [])) {
      const digest = file.replace('-', ':')
      // One in the making is there while its pack is not.
      if (capturing > 0) return
      if (!isDigest(digest) || !(await store.blob(digest))) await rm(join(pages, file), { force: true })
    }
  }

  async function ready(): Promise<void> {
    await swept
    await holds.ready
  }

  /** Runs a job, with the blobs that it asks for. */
  async function run<T>(
    job: string,
    body: Record<string, unknown>,
    options: {
      origin?: (blob: StoredBlob) => Origin
      signal: AbortSignal
      handlers?: (spool: Spool) => Handlers
      onUse?: (digest: Digest) => void
    },
  ): Promise<{ value: T; fetched: number }> {
    const signal = AbortSignal.any([options.signal, closing.signal])
    const spool = createSpool(join(making, `spool-${spools++}`))
    const blobs: Blobs = createBlobs({ manager, store, spool, ...options, signal })
    try {
      const handlers = { ...blobs.handlers, ...options.handlers?.(spool) }
      const value = (await crew.run(job, { ...body, spool: spool.path }, { handlers, signal })) as T
      return { value, fetched: blobs.fetched() }
    } finally {
      blobs.close()
      await spool.close()
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
      capturing++
      const hold = (digest: Digest): void => void releases.push(store.hold(digest))
      let last: Promise<void> = Promise.resolve()
      try {
        const { value } = await run<CaptureResult>(
          'capture',
          { files, base, seal, dir, name },
          {
            signal,
            onUse: hold,
            handlers: () => ({
              /** Taken in while the next one is made. */
              async pack(pack: Made) {
                await last
                hold(pack.digest)
                last = ingest(pack, PACK_TYPE, signal)
                last.catch(() => {})
              },
            }),
          },
        )
        const { recipe, packs, size, changed, added } = value
        hold(recipe.digest)
        await Promise.all([last, ingest(recipe, RECIPE_TYPE, signal)])
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
        capturing--
      }
    },

    async assemble({ recipe, dir, previous, seal, origin, signal }) {
      await ready()
      const { value, fetched } = await run<number>(
        'assemble',
        { recipe, previous, seal, dir },
        { origin, signal },
      )
      return { bytesWritten: value, bytesFetched: fetched }
    },

    async blobs(recipe, origin, signal, seal) {
      await ready()
      const { value } = await run<{ digest: Digest; size: number }[]>(
        'blobs',
        { recipe, seal },
        { origin, signal },
      )
      return value.map((blob, index) => ({ ...blob, mediaType: index === 0 ? RECIPE_TYPE : PACK_TYPE }))
    },

    async *read({ recipe, path, start, end, seal, origin, signal }) {
      await ready()
      const stop = new AbortController()
      const chunks = createHandover<Uint8Array>()
      const buffer = Buffer.allocUnsafeSlow(CHUNK)
      const handlers = (spool: Spool): Handlers => ({
        async chunk({ at, length }: { at: number; length: number }) {
          stop.signal.throwIfAborted()
          const bytes = buffer.subarray(0, length)
          await spool.take(bytes, at)
          await chunks.put(bytes)
        },
      })
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

    async release(recipe) {
      await holds.release(recipe)
      await forgetNames()
    },

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
