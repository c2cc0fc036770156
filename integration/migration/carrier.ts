import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import type { Manager } from '../../manager/index.ts'
import type { Runtime } from '../runtime/types.ts'
import type { StateFile, States } from '../state/types.ts'
import type { Carrier } from './parts.ts'

/** What a state consists of. */
const IMAGES = 'images'
const WRITABLE = 'writable.tar'
/** How often it is looked whether a process has ended. */
const LOOK_MS = 100
const QUIET_MS = 60e3

/**
 * States on their way, as files below `dir`: `ID/out-N` at the source, `ID/in` at the target. Nothing is written through to the disk, as none
 * of it outlives the daemon's crash: CRIU and this process read it out of the page cache.
 */
export function createCarrier(deps: {
  dir: string
  manager: Pick<Manager, 'elsewhere'>
  states: States
  log: Log
}): Carrier {
  const { dir, manager, states, log } = deps
  const placeOf = (id: string): string => join(dir, id)
  const incoming = (id: string): string => join(placeOf(id), 'in')
  /** The newest state that is held for each migration. */
  const held = new Map<string, Digest>()
  let captures = 0

  function drop(path: string): void {
    rm(path, { recursive: true, force: true }).catch((error) =>
      log.warn({ path, error: String(error) }, 'not removed'),
    )
  }

  async function release(recipe: Digest | undefined): Promise<void> {
    if (recipe === undefined) return
    await states
      .release(recipe)
      .catch((error) => log.warn({ recipe, error: String(error) }, 'a state is still held'))
  }

  return {
    async capture({ id, container, runtime, base, signal }) {
      const out = join(placeOf(id), `out-${captures++}`)
      const images = join(out, IMAGES)
      await mkdir(images, { recursive: true, mode: 0o700 })
      const from = Date.now()
      try {
        const [digest] = await Promise.all([
          saveWritable(runtime, container, join(out, WRITABLE), signal),
          runtime.dump(container, { dir: images, leave: 'as-it-was', tcpEstablished: true }, signal),
        ])
        const dumpedAt = Date.now()
        const files = [{ path: WRITABLE, from: join(out, WRITABLE) }, ...(await filesBelow(out, images))]
        const made = await states.capture({ files, ...(base === undefined ? {} : { base }), signal })
        const ms = { dump: dumpedAt - from, compare: Date.now() - dumpedAt }
        log.debug({ id, ms, changed: made.changed, added: made.added }, 'a round is captured')
        const before = held.get(id)
        held.set(id, made.recipe)
        // The new one holds all that it shares with the one before.
        if (before !== made.recipe) void release(before)
        return { recipe: made.recipe, writable: digest, changed: made.changed, added: made.added }
      } finally {
        drop(out)
      }
    },

    async assemble({ id, recipe, previous, signal }) {
      const into = incoming(id)
      // Only a whole state can be gone on from.
      if (previous === undefined) await rm(into, { recursive: true, force: true })
      await mkdir(into, { recursive: true, mode: 0o700 })
      const { bytesFetched } = await states.assemble({
        recipe,
        dir: into,
        signal,
        ...(previous === undefined ? {} : { previous }),
        origin: ({ digest }) => manager.elsewhere(digest),
      })
      return { fetched: bytesFetched }
    },

    async unpack(id, prepared, signal) {
      await prepared.applyWritable(createReadStream(join(incoming(id), WRITABLE)), signal)
    },

    images: (id) => join(incoming(id), IMAGES),

    async quiet(id, signal) {
      for (const until = Date.now() + QUIET_MS; await isWorkedOn(placeOf(id)); ) {
        if (Date.now() > until) throw new ShoalError('BUSY', 'a runtime still works on its state')
        signal.throwIfAborted()
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
      }
    },

    async forget(id) {
      await release(held.get(id))
      held.delete(id)
      drop(placeOf(id))
    },
  }
}

/** The writable layer into a file; resolves to its digest. */
async function saveWritable(
  runtime: Runtime,
  container: string,
  path: string,
  signal: AbortSignal,
): Promise<Digest> {
  const hash = createHash('sha256')
  const tar = await runtime.writable(container, signal)
  await pipeline(
    tar,
    async function* (chunks: AsyncIterable<Uint8Array>) {
      for await (const chunk of chunks) {
        hash.update(chunk)
        yield chunk
      }
    },
    createWriteStream(path, { mode: 0o600 }),
    { signal },
  )
  return `sha256:${hash.digest('hex')}`
}

async function filesBelow(root: string, dir: string): Promise<StateFile[]> {
  const entries = await readdir(dir, { withFileTypes: true, recursive: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((from) => ({ path: relative(root, from), from }))
}

/** Whether any process was started with a path below `dir`: runc, while it dumps or restores. */
async function isWorkedOn(dir: string): Promise<boolean> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const lines = await Promise.all(
    pids.map((pid) => readFile(join('/proc', pid, 'cmdline'), 'utf8').catch(() => '')),
  )
  return lines.some((line) => line.includes(`${dir}/`))
}
