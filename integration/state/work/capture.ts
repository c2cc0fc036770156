import { createHash, hash } from 'node:crypto'
import { closeSync, fstatSync, mkdirSync, openSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Digest, ShoalError } from '../../../base/index.ts'
import { packRecipe } from '../form/frames.ts'
import { LIMITS, PAGE } from '../form/limits.ts'
import { isPath } from '../form/paths.ts'
import {
  addExtent,
  emptyExtents,
  encodeRecipe,
  NONE,
  type Pack,
  packSize,
  type Recipe,
  type RecipeFile,
} from '../form/recipe.ts'
import type { StateFile } from '../types.ts'
import { partsOf } from './cuts.ts'
import type { Job } from './job.ts'
import type { Known } from './known.ts'
import { createPackWriter, type WrittenPack } from './pack-writer.ts'

const CHUNK = 2 ** 20
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
 * is full, and says when there may be more.
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
  const page = Buffer.alloc(PAGE)
  const chunk = Buffer.allocUnsafeSlow(CHUNK)
  const writer = createPackWriter({ dir, name, key: job.seal?.key })
  let isOpen = false
  let changed = 0
  let added = 0
  mkdirSync(dir, { recursive: true })

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
  async function placeOf(bytes: Uint8Array, hint: number): Promise<number> {
    let whole = bytes
    if (bytes.length < PAGE) {
      page.fill(0, bytes.length)
      page.set(bytes)
      whole = page
    }
    const digest = hash('sha256', whole, 'buffer')
    const place = table.find(digest, hint)
    if (place !== undefined) return place
    changed += bytes.length
    if (!isOpen) table.begin()
    isOpen = true
    const made = table.push(digest)
    if (writer.add(bytes)) await finish()
    return made
  }

  async function captureFile({ path, from }: StateFile): Promise<RecipeFile> {
    const fd = openSync(from, 'r')
    try {
      const { size } = fstatSync(fd)
      const extents = emptyExtents(16)
      let at = 0
      let hint = -1
      for (const end of partsOf(fd, size)) {
        while (at < end) {
          const length = Math.min(CHUNK, end - at)
          if (readSync(fd, chunk, 0, length, at) !== length)
            throw new ShoalError('RUNTIME', `${path} changed while it was read`)
          for (let offset = 0; offset < length; offset += PAGE) {
            const bytes = chunk.subarray(offset, Math.min(offset + PAGE, length))
            if (ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0) {
              addExtent(extents, NONE, 0, bytes.length)
              continue
            }
            const place = await placeOf(bytes, hint)
            addExtent(extents, known.packOf(place), known.pageOf(place), bytes.length)
            hint = place + 1
          }
          at += length
          await job.turn()
        }
      }
      return { path, size, extents }
    } finally {
      closeSync(fd)
    }
  }

  try {
    const files: RecipeFile[] = []
    for (const file of sorted(request.files)) files.push(await captureFile(file))
    await finish()
    const recipe = withoutUnused({ seal: job.seal?.id, packs, files })
    const blob = packRecipe(encodeRecipe(recipe), job.seal?.key)
    if (blob.length > LIMITS.recipe)
      throw new ShoalError('USAGE', 'the state is too large, or in too many pieces')
    const path = join(dir, `${name}-recipe`)
    writeFileSync(path, blob, { mode: 0o600 })
    const digest = `sha256:${createHash('sha256').update(blob).digest('hex')}` as Digest
    return {
      recipe: { digest, size: blob.length, path },
      packs: recipe.packs.map((pack) => ({ digest: pack.digest, size: packSize(pack) })),
      size: files.reduce((sum, { size }) => sum + size, 0),
      changed,
      added,
    }
  } finally {
    writer.discard()
  }
}

function sorted(files: StateFile[]): StateFile[] {
  const paths = new Set<string>()
  for (const { path } of files) {
    if (!isPath(path) || paths.has(path)) throw new ShoalError('USAGE', `not a path of a state: ${path}`)
    paths.add(path)
  }
  return [...files].sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** Packs that the files do not need any more are left out. */
function withoutUnused({ seal, packs, files }: Recipe): Recipe {
  const used = new Uint8Array(packs.length)
  for (const { extents } of files) {
    for (let i = 0; i < extents.count; i++) {
      const pack = extents.pack[i] as number
      if (pack !== NONE) used[pack] = 1
    }
  }
  const left: Pack[] = []
  const numbers = packs.map((pack, index) => (used[index] === 1 ? left.push(pack) - 1 : NONE))
  for (const { extents } of files) {
    for (let i = 0; i < extents.count; i++) {
      const pack = extents.pack[i] as number
      if (pack !== NONE) extents.pack[i] = numbers[pack] as number
    }
  }
  return { seal, packs: left, files }
}
