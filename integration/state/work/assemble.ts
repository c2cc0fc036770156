import {
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
import { ShoalError } from '../../../base/index.ts'
import { FRAME_PAGES, PAGE } from '../form/limits.ts'
import { STAGED } from '../form/paths.ts'
import type { Pack, Recipe } from '../form/recipe.ts'
import { createFds } from './fds.ts'
import type { Job } from './job.ts'
import { eachFrame, fetchPack } from './pack-reader.ts'
import { type FilePlan, type Need, type Plan, planAssembly, sortNeeds } from './plan.ts'

const CHUNK = 2 ** 20
/** Packs that are fetched at once; one is written while the others come. */
const AHEAD = 4

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
  if (!previous) empty(dir)
  const plan = planAssembly(recipe, previous)
  const packs = [...plan.needs.keys()].map((index) => recipe.packs[index] as Pack)
  const coming = fetchAhead(job, packs)
  const fds = createFds((file) => pathOf(dir, plan.files[file] as FilePlan), job.check)
  let written = 0
  for (const path of plan.gone) remove(dir, path)
  try {
    written += await prepare(job, plan, dir)
    for (const [index, needs] of plan.needs) {
      const pack = recipe.packs[index] as Pack
      await coming(pack)
      written += await writePack(job, pack, sortNeeds(needs), fds.get)
    }
  } finally {
    fds.close()
  }
  for (const file of plan.files) if (file.how === 'move') renameSync(pathOf(dir, file), join(dir, file.path))
  return written
}

/** Where a file is written: contents that moved within it go to a new one. */
function pathOf(dir: string, { path, how }: FilePlan): string {
  return join(dir, how === 'move' ? path + STAGED : path)
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

function fetchAhead(job: Job, packs: Pack[]): (pack: Pack) => Promise<void> {
  const started = new Map<Pack, Promise<void>>()
  const start = (): void => {
    const pack = packs.find((each) => !started.has(each))
    if (!pack) return
    const fetched = fetchPack(job, pack)
    fetched.catch(() => {})
    started.set(pack, fetched)
  }
  for (let i = 0; i < AHEAD; i++) start()
  return async (pack) => {
    await started.get(pack)
    start()
  }
}

/** Makes every file have its size, and all in it that comes from no pack. */
async function prepare(job: Job, plan: Plan, dir: string): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(CHUNK)
  let written = 0
  for (const file of plan.files) {
    const path = pathOf(dir, file)
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const flags = file.how === 'patch' ? 0 : constants.O_CREAT | constants.O_TRUNC
    const fd = openSync(path, flags | constants.O_RDWR | constants.O_NOFOLLOW, 0o600)
    const old = file.how === 'move' ? openSync(join(dir, file.path), constants.O_RDONLY) : undefined
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
      if (file.zeros.length > 0) buffer.fill(0)
      for (const { offset, length } of file.zeros) {
        for (let done = 0; done < length; done += CHUNK) {
          written += write(fd, buffer.subarray(0, Math.min(CHUNK, length - done)), offset + done)
          await job.turn()
        }
      }
    } finally {
      closeSync(fd)
      if (old !== undefined) closeSync(old)
    }
  }
  return written
}

async function writePack(
  job: Job,
  pack: Pack,
  needs: Need[],
  fdOf: (file: number) => number,
): Promise<number> {
  const frames = [...new Set(needs.map(({ page }) => Math.floor(page / FRAME_PAGES)))]
  let next = 0
  let written = 0
  await eachFrame(job, pack, frames, (frame, bytes) => {
    const first = frame * FRAME_PAGES
    for (let need = needs[next]; need && need.page < first + FRAME_PAGES; need = needs[++next]) {
      const at = (need.page - first) * PAGE
      written += write(fdOf(need.file), bytes.subarray(at, at + need.length), need.offset)
    }
  })
  return written
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
