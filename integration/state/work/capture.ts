import { createHash } from 'node:crypto'
import { closeSync, fstatSync, mkdirSync, openSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Digest, ShoalError } from '../../../base/index.ts'
import { packRecipe } from '../form/frames.ts'
import { LIMITS, PACK_PAGES, PAGE } from '../form/limits.ts'
import { checkPaths } from '../form/paths.ts'
import {
  addExtent,
  type Extents,
  emptyExtents,
  encodeRecipe,
  NONE,
  type Pack,
  packSize,
  type Recipe,
  type RecipeFile,
  stateSize,
} from '../form/recipe.ts'
import type { StateFile } from '../types.ts'
import { partsOf } from './cuts.ts'
import type { Job } from './job.ts'
import type { Known } from './known.ts'
import { type AddRun, closeAll, compareWith, type LastFile, WORTH } from './last-dump.ts'
import { createPackWriter, type WrittenPack } from './pack-writer.ts'
import { nameOf } from './page-names.ts'

const CHUNK = 2 ** 20
/** Files of this capture that stay open for the next one. */
const MOST_OPEN = 16
const ZEROS = Buffer.alloc(PAGE)

export interface CaptureResult {
  recipe: { digest: Digest; size: number; path: string }
  packs: { digest: Digest; size: number }[]
  size: number
  changed: number
  /** Of new packs. */
  added: number
}

/**
 * Reads the files once, page by page. A page that is known is named, another one goes into a new pack; `onPack` takes each pack when it
 * is full, and says when there may be more. `known` has what was found, for the next capture.
 */
export async function captureFiles(request: {
  job: Job
  files: StateFile[]
  known: Known
  /** For files that are being made. */
  dir: string
  name: string
  onPack: (pack: WrittenPack) => Promise<void>
}): Promise<CaptureResult> {
  const { job, known, dir, name, onPack } = request
  const { table, packs } = known
  const padded = Buffer.alloc(PAGE)
  const chunk = Buffer.allocUnsafeSlow(CHUNK)
  const writer = createPackWriter({ dir, name, key: job.seal?.key })
  const opened = new Map<string, LastFile>()
  let isOpen = false
  let changed = 0
  let added = 0

  async function finish(): Promise<void> {
    const pack = writer.finish()
    isOpen = false
    if (!pack) return
    packs.push(pack)
    added += pack.size
    known.save(packs.length - 1)
    await onPack(pack)
  }

  /** Where the page's content is from now on. */
  function placeOf(bytes: Uint8Array, hint: number): number {
    let whole = bytes
    if (bytes.length < PAGE) {
      padded.fill(0, bytes.length)
      padded.set(bytes)
      whole = padded
    }
    const digest = nameOf(whole)
    const place = table.find(digest, hint)
    if (place !== undefined) return place
    changed += bytes.length
    if (!isOpen) table.begin()
    isOpen = true
    writer.add(bytes)
    return table.push(digest)
  }

  async function captureFile(source: StateFile, before: LastFile | undefined): Promise<RecipeFile> {
    const { path, from } = source
    const fd = openSync(from, 'r')
    const stat = fstatSync(fd, { bigint: true })
    const size = Number(stat.size)
    const extents = emptyExtents(16)
    const isKept = size >= WORTH && opened.size < MOST_OPEN
    if (isKept) opened.set(path, { fd, size, mtimeNs: stat.mtimeNs, extents })
    const comparison = before && compareWith(before)
    const add: AddRun = (pack, page, length) => addExtent(extents, pack, page, length)
    let hint = -1

    const addPage = (offset: number, bytes: Buffer): void => {
      if (ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0) {
        add(NONE, 0, bytes.length)
        return
      }
      const place = placeOf(bytes, hint)
      add(Math.floor(place / PACK_PAGES), place % PACK_PAGES, bytes.length)
      comparison?.found(offset, place)
      hint = place + 1
    }

    try {
      let at = 0
      for (const end of partsOf(fd, size)) {
        while (at < end) {
          const length = Math.min(CHUNK, end - at)
          if (readSync(fd, chunk, 0, length, at) !== length)
            throw new ShoalError('RUNTIME', `${path} changed while it was read`)
          for (let done = 0; done < length; ) {
            done += comparison?.match(at, chunk, done, length, add) ?? 0
            if (done === length) break
            const next = Math.min(done + PAGE, length)
            addPage(at + done, chunk.subarray(done, next))
            if (writer.isFull()) await finish()
            done = next
          }
          at += length
          await job.turn()
        }
      }
    } finally {
      if (!isKept) closeSync(fd)
    }
    if (comparison?.isSound() === false) {
      // What was taken for the same may not have been.
      if (opened.delete(path)) closeSync(fd)
      return captureFile(source, undefined)
    }
    return { path, size, extents }
  }

  try {
    const sources = sorted(request.files)
    mkdirSync(dir, { recursive: true })
    const files: RecipeFile[] = []
    for (const source of sources) files.push(await captureFile(source, known.last.get(source.path)))
    await finish()
    const recipe = withoutUnused({ seal: job.seal?.id, packs, files })
    const blob = packRecipe(encodeRecipe(recipe), job.seal?.key)
    const runs = files.reduce((sum, { extents }) => sum + extents.count, 0)
    const size = stateSize(recipe)
    const isTooMuch = size > LIMITS.state || runs > LIMITS.extents || recipe.packs.length > LIMITS.packs
    if (isTooMuch || blob.length > LIMITS.recipe)
      throw new ShoalError('USAGE', 'the state is too large, or in too many pieces')
    const path = join(dir, `${name}-recipe`)
    writeFileSync(path, blob, { mode: 0o600 })
    const digest = `sha256:${createHash('sha256').update(blob).digest('hex')}` as Digest
    known.keep(digest, recipe, opened)
    return {
      recipe: { digest, size: blob.length, path },
      packs: recipe.packs.map((pack) => ({ digest: pack.digest, size: packSize(pack) })),
      size,
      changed,
      added,
    }
  } catch (error) {
    closeAll(opened.values())
    throw error
  } finally {
    writer.discard()
    closeAll(known.last.values())
  }
}

function sorted(files: StateFile[]): StateFile[] {
  const inOrder = [...files].sort((a, b) => (a.path < b.path ? -1 : 1))
  try {
    checkPaths(inOrder.map(({ path }) => path))
  } catch (error) {
    throw new ShoalError('USAGE', (error as Error).message)
  }
  return inOrder
}

/** Packs that the files do not need any more are left out. */
function withoutUnused({ seal, packs, files }: Recipe): Recipe {
  const used = new Uint8Array(packs.length)
  for (const { extents } of files) for (const pack of runsOf(extents)) if (pack !== NONE) used[pack] = 1
  if (used.every((value) => value === 1)) return { seal, packs: [...packs], files }
  const left: Pack[] = []
  const numbers = packs.map((pack, index) => (used[index] === 1 ? left.push(pack) - 1 : NONE))
  const renumbered = files.map(({ path, size, extents }) => {
    const pack = runsOf(extents).map((number) => (number === NONE ? NONE : (numbers[number] as number)))
    return { path, size, extents: { ...extents, pack } }
  })
  return { seal, packs: left, files: renumbered }
}

const runsOf = ({ pack, count }: Extents): Int32Array => pack.subarray(0, count)
