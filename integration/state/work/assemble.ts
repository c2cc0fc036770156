import {
  close,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { errnoOf, ShoalError } from '../../../base/index.ts'
import { FRAME, FRAME_PAGES, PAGE } from '../form/limits.ts'
import { STAGED } from '../form/paths.ts'
import { frameBytes, type Pack, type Recipe } from '../form/recipe.ts'
import { SEALED_EXTRA } from '../form/seal.ts'
import { createFds } from './fds.ts'
import type { Job } from './job.ts'
import { type Batch, createAddresses, inOrder } from './order.ts'
import { fetchPack } from './pack-reader.ts'
import { createParts } from './parts.ts'
import { createPlacing, type Placing } from './placing.ts'
import { type FilePlan, type Plan, planAssembly } from './plan.ts'
import { createUnpacker } from './unpacker.ts'

const CHUNK = 2 ** 20
/** Packs that are fetched at once; one is written while the others come. */
const AHEAD = 4
/** Large files that are replaced and still open. */
const MOST_REPLACED = 16
const FREED_MS = 1000
/** Frames whose bytes are on their way from the daemon. */
const EXPECTED = 12
/** Frames that are in memory: one is written while the others are unpacked. */
const UNPACKED = 3

/**
 * Makes `dir` hold the recipe's files, from nothing or from what `previous` left there. Packs that are not needed are not fetched.
 * Resolves to the bytes written.
 */
export async function assembleFiles(request: {
  job: Job
  recipe: Recipe
  previous: Recipe | undefined
  dir: string
}): Promise<number> {
  const { job, recipe, dir } = request
  const previous = request.previous && isThere(request.previous, dir) ? request.previous : undefined
  if (!previous) {
    empty(dir)
    rmSync(spareIn(dir), { force: true })
  }
  const plan = planAssembly(recipe, previous)
  const addresses = createAddresses(plan.files.map(({ size }) => size))
  const batches = inOrder(plan, addresses)
  const packs = [...new Set(batches.map(({ pack }) => pack))].map((index) => recipe.packs[index] as Pack)
  const arrived = fetchAhead(job, packs)
  const fds = createFds((file) => pathOf(dir, plan.files[file] as FilePlan), job.check)
  /** Files that new ones replace. */
  const replaced: number[] = []
  const moved = plan.files.filter(({ how }) => how === 'move')
  const largest = moved.toSorted((a, b) => b.size - a.size).at(0)
  let written = 0
  for (const path of plan.gone) remove(dir, path)
  try {
    written += await prepare(job, plan, { dir, replaced, largest })
    const placing = createPlacing({ addresses, fdOf: fds.get })
    await writeFrames({ job, packs: recipe.packs, batches, arrived, placing })
    written += placing.written
    for (const file of moved) {
      if (file === largest) renameSync(join(dir, file.path), spareIn(dir))
      renameSync(pathOf(dir, file), join(dir, file.path))
    }
  } finally {
    fds.close()
    freeLater(replaced)
  }
  return written
}

/** Where a file is written: contents that moved within it go to a new one. */
function pathOf(dir: string, { path, how }: FilePlan): string {
  return join(dir, how === 'move' ? path + STAGED : path)
}

/**
 * The largest file that was replaced last, which the next one is written over: memory and blocks that are there already are had for half of the
 * time. It lies beside the directory, which has what the state has.
 */
function spareIn(dir: string): string {
  return dir + STAGED
}

/** Closing the last of a large file frees it, which keeps the disk busy: what the state is for comes first. */
function freeLater(fds: number[]): void {
  const free = (): void => {
    for (const fd of fds) close(fd)
  }
  if (fds.length > 0) setTimeout(free, FREED_MS).unref()
}

/** Files of the right sizes are there; what they hold was written by an earlier call. */
function isThere(recipe: Recipe, dir: string): boolean {
  return recipe.files.every(({ path, size }) => {
    const stat = lstatSync(join(dir, path), { throwIfNoEntry: false })
    return stat?.isFile() === true && stat.size === size
  })
}

function empty(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  for (const name of readdirSync(dir)) rmSync(join(dir, name), { recursive: true, force: true })
}

/** Brings packs here, some before they are asked for, which is in this order. */
function fetchAhead(job: Job, packs: Pack[]): (pack: Pack) => Promise<void> {
  const started = new Map<Pack, Promise<void>>()
  const asked = new Map<Pack, Promise<void>>()
  const start = (): void => {
    const pack = packs[started.size]
    if (!pack) return
    const fetched = fetchPack(job, pack)
    fetched.catch(() => {})
    started.set(pack, fetched)
  }
  for (let i = 0; i < AHEAD; i++) start()
  return (pack) => {
    const known = asked.get(pack)
    if (known) return known
    while (!started.has(pack)) start()
    const arrived = (started.get(pack) as Promise<void>).then(start)
    asked.set(pack, arrived)
    return arrived
  }
}

/** Makes every file have its size, and all in it that comes from no pack. */
async function prepare(
  job: Job,
  plan: Plan,
  { dir, replaced, largest }: { dir: string; replaced: number[]; largest: FilePlan | undefined },
): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(CHUNK)
  let written = 0
  for (const file of plan.files) {
    const path = pathOf(dir, file)
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const isOver = file === largest && rename(spareIn(dir), path)
    const flags = file.how === 'patch' || isOver ? 0 : constants.O_CREAT | constants.O_TRUNC
    const fd = openSync(path, flags | constants.O_RDWR | constants.O_NOFOLLOW, 0o600)
    const old = file.how === 'move' ? openSync(join(dir, file.path), constants.O_RDONLY) : undefined
    const isReplaced =
      old !== undefined && file !== largest && file.size >= CHUNK && replaced.length < MOST_REPLACED
    if (isReplaced) replaced.push(old)
    try {
      if (fstatSync(fd).size !== file.size) ftruncateSync(fd, file.size)
      for (const { from, to, length } of file.copies) {
        for (let done = 0; done < length; done += CHUNK) {
          const part = Math.min(CHUNK, length - done)
          if (readSync(old as number, buffer, 0, part, from + done) !== part)
            throw new ShoalError('INTERNAL', `${file.path} became shorter while it was read`)
          written += write(fd, buffer.subarray(0, part), to + done)
          if (part === CHUNK) await job.turn()
        }
      }
      const zeros = file.how === 'patch' || isOver ? file.zeros : []
      if (zeros.length > 0) buffer.fill(0)
      for (const { offset, length } of zeros) {
        for (let done = 0; done < length; done += CHUNK) {
          written += write(fd, buffer.subarray(0, Math.min(CHUNK, length - done)), offset + done)
          await job.turn()
        }
      }
    } finally {
      closeSync(fd)
      if (old !== undefined && !isReplaced) closeSync(old)
    }
  }
  return written
}

/** Unpacks every frame that is needed, once; the next ones meanwhile. */
async function writeFrames(deps: {
  job: Job
  packs: readonly Pack[]
  batches: readonly Batch[]
  arrived: (pack: Pack) => Promise<void>
  placing: Placing
}): Promise<void> {
  const { job, packs, batches, arrived, placing } = deps
  const parts = createParts({ job, packs, batches, arrived })
  const unpacker = createUnpacker({ lanes: UNPACKED, key: job.seal?.key })
  const buffers = Array.from({ length: UNPACKED }, () => Buffer.allocUnsafeSlow(FRAME + SEALED_EXTRA))

  async function unpack(index: number): Promise<Buffer> {
    const batch = batches[index] as Batch
    const pack = packs[batch.pack] as Pack
    const lane = index % UNPACKED
    const packed = (buffers[lane] as Buffer).subarray(0, pack.frames[batch.frame])
    await parts.frame(batch, packed)
    return unpacker.unpack(lane, packed, frameBytes(pack, batch.frame))
  }

  const coming: Promise<Buffer>[] = []
  try {
    for (const batch of batches.slice(0, EXPECTED)) parts.expect(batch)
    for (let index = 0, next = 0; index < batches.length; index++) {
      const expected = batches[index + EXPECTED]
      if (expected) parts.expect(expected)
      for (; next < Math.min(index + UNPACKED, batches.length); next++) {
        const unpacked = unpack(next)
        unpacked.catch(() => {})
        coming.push(unpacked)
      }
      const bytes = (await coming.shift()) as Buffer
      job.check()
      const { frame, needs, first } = batches[index] as Batch
      placing.advance(first)
      for (const { page, file, offset, length } of needs) {
        const at = (page - frame * FRAME_PAGES) * PAGE
        placing.put(file, offset, bytes, at, at + length)
      }
    }
    placing.finish()
  } finally {
    // They read what the job has open.
    await Promise.allSettled(coming)
    unpacker.close()
  }
}

/** False where there is none. */
function rename(from: string, to: string): boolean {
  try {
    renameSync(from, to)
    return true
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false
    throw error
  }
}

function write(fd: number, bytes: Uint8Array, offset: number): number {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, offset + at)
  return bytes.length
}

/** With directories that are left empty. */
function remove(dir: string, path: string): void {
  rmSync(join(dir, path), { force: true })
  for (let parent = dirname(path); parent !== '.'; parent = dirname(parent)) {
    try {
      rmdirSync(join(dir, parent))
    } catch {
      return
    }
  }
}
