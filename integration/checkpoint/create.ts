import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { crc32 } from 'node:zlib'
import { type Digest, isShoalError, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import { skipInFlight } from '../migration/criu-config.ts'
import type { Runtime } from '../runtime/types.ts'
import type { Captured, Seal } from '../state/types.ts'
import { artifactIndex, CRIU_DIR, indexDigest, RW_FILE, virtualParts } from './artifact.ts'
import type { BaseImage } from './base-image.ts'
import type { CheckpointDocument, Inside } from './document.ts'
import { hostNeeds } from './host.ts'
import { isName, nameOf } from './names.ts'
import type { Parts } from './parts.ts'
import { isForSame, newSeal, openDocument, sealInside } from './sealing.ts'
import type { Slot } from './slots.ts'
import { createSteps } from './steps.ts'
import type { Checkpoints, StepTimes } from './types.ts'
import { unmovable } from './unmovable.ts'
import { type Described, readVirtual } from './virtual.ts'

export type CreateRequest = Parameters<Checkpoints['create']>[0]

const UNDO_MS = 60_000
export const DEFAULT_COPIES = 2

/**
 * Freezes a container, reads what it is made of, and publishes it. Frozen is only the dump and the copy of the writable layer, where it goes on; else
 * it stays frozen until the checkpoint is safe, and is removed only then. Whatever fails leaves it as it was.
 */
export async function createCheckpoint(
  parts: Parts,
  request: CreateRequest,
): Promise<{ document: CheckpointDocument; seconds: StepTimes }> {
  const { signal, leaveRunning } = request
  const { log, states, storing, published, slots, freezing } = parts
  const steps = createSteps(request.onStep)
  const driver = await parts.runtimes.get(request.runtime)
  const container = await driver.inspect(request.container, signal)
  const name = request.name ?? nameOf(container.name)
  if (!isName(name)) throw new ShoalError('NAME_INVALID', `not a checkpoint's name: ${name.slice(0, 80)}`)
  const copies = request.copies ?? DEFAULT_COPIES
  const nodes = request.encryptFor && [...new Set(request.encryptFor)].sort()
  const unclaim = parts.claim(driver.name, container.id, 'checkpointed')
  try {
    const facts = await steps.run('check', async () => {
      if (await parts.isMoving(driver.name, container.id)) {
        throw new ShoalError('BUSY', `${container.name} is on its way to another node`)
      }
      if (dumpsTcp(driver)) await skipInFlight(log)
      const found = await driver.facts(signal)
      const reasons = found.can.checkpoint
        ? await unmovable(container, { tcpEstablished: dumpsTcp(driver), signal })
        : found.why
      if (reasons.length > 0 || !found.can.checkpoint) throw unfitError(container.name, reasons)
      return found
    })
    const recreation = await driver.describe(container.id, signal)
    const base = await steps.run('image', () => keepImage(parts, recreation.image, copies, signal))
    const { seal, recipe: earlier } = await predecessor(parts, name, nodes)
    await mkdir(parts.dir, { recursive: true, mode: 0o700 })
    const dir = await mkdtemp(join(parts.dir, 'create-'))
    let goOn: (() => Promise<void>) | undefined
    const thaw = async (): Promise<void> => {
      await goOn?.()
      goOn = undefined
    }
    let captured: Captured | undefined
    let place: Slot | undefined
    let storedAs: string | undefined
    try {
      if (container.state === 'running') goOn = await freezing.freeze(driver, container.id, signal)
      const rw = await steps.run('dump', () => dump(driver, container.id, dir, signal))
      if (leaveRunning) await thaw()
      const criu = await filesBelow(join(dir, CRIU_DIR), CRIU_DIR)
      const files = [...criu.map(({ path }) => path), RW_FILE].map((path) => ({
        path,
        from: join(dir, path),
      }))
      const made = await steps.run('capture', () => capture(parts, files, earlier, seal, signal))
      captured = made
      const createdAt = parts.now()
      const needs = await hostNeeds(facts)
      const inside: Inside = { recreation, criu, rw, index: '' }
      inside.index = artifactIndex({
        parts: await describe(inside, dir, signal),
        recreation,
        needs,
        name,
        node: parts.self,
        createdAt,
        base: base?.descriptor,
      })
      place = await slots.take(name)
      const { slot, storedAs: as } = place
      storedAs = as
      await steps.run('store', () =>
        storing.store(
          { name: as, digest: made.recipe, copies, blobs: made.blobs },
          { origin: parts.origin, signal },
        ),
      )
      const { expiresInMs } = request
      const document = await steps.run('publish', () =>
        published.publish(
          {
            name,
            node: parts.self,
            site: parts.site,
            createdAt,
            copies,
            needs,
            slot,
            storedAs: as,
            ...(expiresInMs === undefined ? {} : { expiresAt: createdAt + expiresInMs }),
            recipe: made.recipe,
            blobs: made.blobs,
            size: made.size,
            added: made.added,
            container: { name: container.name, runtime: driver.name, ...imageOf(recreation.image) },
            digest: indexDigest(inside.index),
            ...(base ? { imageStoredAs: base.collected.name } : {}),
            ...(seal && nodes ? { sealed: sealInside(inside, seal, nodes, parts.identity) } : { inside }),
          },
          signal,
        ),
      )
      storedAs = undefined
      if (!leaveRunning) {
        await steps.run('remove', () => driver.remove(container.id, signal))
        await thaw()
      }
      return { document, seconds: steps.seconds }
    } catch (error) {
      await thaw().catch((failure) =>
        log.error({ container: container.id, error: String(failure) }, 'a container may still be frozen'),
      )
      if (storedAs !== undefined) await storing.forget(storedAs, AbortSignal.timeout(UNDO_MS)).catch(() => {})
      throw error
    } finally {
      place?.release()
      if (captured) await states.release(captured.recipe).catch(() => {})
      await rm(dir, { recursive: true, force: true })
    }
  } finally {
    unclaim()
  }
}

export function unfitError(container: string, reasons: string[]): ShoalError {
  const told = reasons.length > 0 ? reasons : ['its runtime cannot do that here']
  return new ShoalError('UNFIT', `${container}: ${told.join('; ')}`, { details: { reasons: told } })
}

/** Has the site store the base image. A checkpoint of what cannot be had now is better than none: that is only logged. */
async function keepImage(
  { images, log }: Parts,
  image: { reference: string; digest: Digest | undefined } | undefined,
  copies: number,
  signal: AbortSignal,
): Promise<BaseImage | undefined> {
  if (!image) return undefined
  try {
    const base = await images.find(image, signal)
    await images.keep(base, copies, signal)
    return base
  } catch (error) {
    if (!isShoalError(error) || signal.aborted) throw error
    const { reference } = image
    log.warn(
      { image: reference, error: error.message },
      "a checkpoint's base image cannot be stored in the site",
    )
    return undefined
  }
}

function imageOf(
  image: { reference: string; digest: Digest | undefined } | undefined,
): Pick<CheckpointDocument['container'], 'image'> {
  if (!image) return {}
  const { reference, digest } = image
  return { image: { reference, ...(digest === undefined ? {} : { digest }) } }
}

/** The newest version, where what it is made of may be used again: sealed for the same nodes, or neither is sealed. */
async function predecessor(
  { published, self, identity }: Parts,
  name: string,
  nodes: PeerId[] | undefined,
): Promise<{ seal: Seal | undefined; recipe: Digest | undefined }> {
  const last = (await published.list(name)).at(-1)
  if (nodes === undefined) return { seal: undefined, recipe: last?.sealed ? undefined : last?.recipe }
  if (last && isForSame(last.sealed, nodes)) {
    try {
      const { seal } = openDocument(last, self, identity)
      if (seal) return { seal, recipe: last.recipe }
    } catch (error) {
      // This node is none of them: it can make versions, but not read earlier ones.
      if (!isShoalError(error, 'DENIED')) throw error
    }
  }
  return { seal: newSeal(), recipe: undefined }
}

/** Connections are dumped, and closed where it is restored: clients connect anew. Docker cannot. */
function dumpsTcp({ name }: Runtime): boolean {
  return name !== 'docker'
}

async function dump(
  driver: Runtime,
  id: string,
  dir: string,
  signal: AbortSignal,
): Promise<{ size: number; crc: number }> {
  const images = join(dir, CRIU_DIR)
  await mkdir(images, { mode: 0o700 })
  const tcpEstablished = dumpsTcp(driver)
  await driver.dump(id, { dir: images, leave: 'as-it-was', tcpEstablished }, signal)
  let size = 0
  let crc = 0
  await pipeline(
    await driver.writable(id, signal),
    async function* (source: AsyncIterable<Buffer>) {
      for await (const chunk of source) {
        size += chunk.length
        crc = crc32(chunk, crc)
        yield chunk
      }
    },
    createWriteStream(join(dir, RW_FILE), { mode: 0o600 }),
    { signal },
  )
  return { size, crc }
}

/** Regular files, in a fixed order; CRIU's own log is for people. */
async function filesBelow(dir: string, prefix: string): Promise<Inside['criu']> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  const paths = entries
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.log'))
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)))
    .sort()
  return Promise.all(
    paths.map(async (path) => ({ path: prefix + path, size: (await stat(join(dir, path))).size })),
  )
}

/** An earlier version that cannot be read any more costs bytes, not the checkpoint. */
async function capture(
  { states, log }: Parts,
  files: { path: string; from: string }[],
  base: Digest | undefined,
  seal: Seal | undefined,
  signal: AbortSignal,
): Promise<Captured> {
  const sealed = seal === undefined ? {} : { seal }
  if (base !== undefined) {
    try {
      return await states.capture({ files, base, ...sealed, signal })
    } catch (error) {
      if (isShoalError(error, 'STORE_FULL', 'ABORTED') || signal.aborted) throw error
      log.warn({ base, error: String(error) }, 'the version before cannot be built upon')
    }
  }
  return states.capture({ files, ...sealed, signal })
}

/** Reads the files once to tell the digests of what will be made of them. */
async function describe(inside: Inside, dir: string, signal: AbortSignal): Promise<Described[]> {
  const read = (path: string, start: number, end: number): AsyncIterable<Uint8Array> =>
    start === end
      ? emptyChunks()
      : createReadStream(join(dir, path), { start, end: end - 1, highWaterMark: 2 ** 18, signal })
  const described: Described[] = []
  for (const { mediaType, blob } of virtualParts(inside)) {
    const hash = createHash('sha256')
    for await (const chunk of readVirtual(blob, { start: 0, end: blob.size }, read)) hash.update(chunk)
    described.push({ mediaType, blob, digest: `sha256:${hash.digest('hex')}` })
  }
  return described
}

async function* emptyChunks(): AsyncGenerator<Uint8Array> {}
