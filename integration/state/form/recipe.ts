import { decode, encode } from 'cborg'
import { type Digest, isDigest, ShoalError } from '../../../base/index.ts'
import { FRAME_PAGES, LIMITS, PACK_PAGES, PAGE } from './limits.ts'
import { checkPaths } from './paths.ts'
import { SEALED_EXTRA } from './seal.ts'
import { createReader, createWriter } from './varints.ts'

/** A blob of pages: frames of FRAME_PAGES pages each, the last one shorter, every one compressed by itself or as it is. */
export interface Pack {
  digest: Digest
  pages: number
  /** Bytes of each frame in the blob; as many as its pages have: it is not compressed. */
  frames: Uint32Array
}

/** A file as runs of pages of packs, in the order of the file. Of a run's last page only a beginning may count. */
export interface Extents {
  count: number
  /** Index of the pack; NONE: zeros. */
  pack: Int32Array
  /** First page in the pack. */
  page: Uint32Array
  /** Bytes. */
  length: Uint32Array
}

export interface RecipeFile {
  path: string
  size: number
  extents: Extents
}

export interface Recipe {
  /** ID of the key that its packs are sealed with; undefined: they are not. */
  seal: string | undefined
  packs: Pack[]
  /** By path. */
  files: RecipeFile[]
}

export const NONE = -1
const VERSION = 1

export const pagesOf = (bytes: number): number => Math.ceil(bytes / PAGE)
export const packSize = (pack: Pack): number => pack.frames.reduce((sum, length) => sum + length, 0)
export const stateSize = (recipe: Recipe): number => recipe.files.reduce((sum, { size }) => sum + size, 0)
/** Bytes of a frame when it is unpacked. */
export const frameBytes = (pack: Pack, frame: number): number =>
  Math.min(FRAME_PAGES, pack.pages - frame * FRAME_PAGES) * PAGE

/** CBOR; the same recipe has one form only. The caller compresses it. */
export function encodeRecipe(recipe: Recipe): Uint8Array {
  return encode({
    v: VERSION,
    seal: recipe.seal ?? null,
    packs: recipe.packs.map((pack) => {
      const frames = createWriter()
      for (const length of pack.frames) frames.put(length)
      return [pack.digest, pack.pages, frames.bytes()]
    }),
    files: recipe.files.map((file) => [
      file.path,
      file.size,
      encodeExtents(file.extents, recipe.packs.length),
    ]),
  })
}

/** @throws PROTOCOL for whatever is not a recipe that `encodeRecipe` could have made, or asks too much */
export function decodeRecipe(bytes: Uint8Array): Recipe {
  const body = parse(bytes)
  const packs = list(body.packs, LIMITS.packs, 'packs').map((pack) => readPack(pack, body.seal !== undefined))
  if (new Set(packs.map(({ digest }) => digest)).size !== packs.length) throw bad('a pack twice')
  const raw = list(body.files, LIMITS.files, 'files').map(readFile)
  checkPaths(raw.map(({ path }) => path))
  const total = raw.reduce((sum, { size }) => sum + size, 0)
  if (total > LIMITS.state) throw bad('a state that is too large')
  let left: number = LIMITS.extents
  const files = raw.map(({ path, size, bytes }) => {
    const extents = readExtents(bytes, size, packs, left)
    left -= extents.count
    return { path, size, extents }
  })
  const used = new Set(files.flatMap(({ extents }) => [...new Set(extents.pack.subarray(0, extents.count))]))
  used.delete(NONE)
  if (used.size !== packs.length) throw bad('a pack that no file needs')
  return { seal: body.seal, packs, files }
}

function parse(bytes: Uint8Array): { seal: string | undefined; packs: unknown; files: unknown } {
  if (bytes.length > LIMITS.unpacked) throw bad('too long')
  let body: unknown
  try {
    body = decode(bytes, { strict: true, rejectDuplicateMapKeys: true, allowIndefinite: false })
  } catch {
    throw bad('not CBOR')
  }
  if (typeof body !== 'object' || body === null || Object.keys(body).sort().join() !== 'files,packs,seal,v')
    throw bad('other fields than expected')
  const { v, seal, packs, files } = body as Record<string, unknown>
  if (v !== VERSION) throw bad('of a version that is not known here')
  if (seal !== null && (typeof seal !== 'string' || seal.length > 256)) throw bad("a key's ID that is none")
  return { seal: seal ?? undefined, packs, files }
}

function readPack(value: unknown, isSealed: boolean): Pack {
  const [digest, pages, lengths] = tuple(value, 3)
  if (typeof digest !== 'string' || !isDigest(digest)) throw bad('a digest that is none')
  const count = whole(pages, PACK_PAGES)
  if (count === 0) throw bad('an empty pack')
  if (!(lengths instanceof Uint8Array)) throw bad('frames that are not bytes')
  const pack = { digest, pages: count, frames: new Uint32Array(Math.ceil(count / FRAME_PAGES)) }
  const reader = createReader(lengths, bad)
  for (let frame = 0; frame < pack.frames.length; frame++) {
    const length = reader.take()
    const extra = isSealed ? SEALED_EXTRA : 0
    if (length <= extra || length > frameBytes(pack, frame) + extra) throw bad("a frame's length")
    pack.frames[frame] = length
  }
  if (!reader.ended()) throw bad('more frames than pages')
  return pack
}

function readFile(value: unknown): { path: string; size: number; bytes: Uint8Array } {
  const [path, size, bytes] = tuple(value, 3)
  if (typeof path !== 'string' || !(bytes instanceof Uint8Array)) throw bad('a file that is none')
  return { path, size: whole(size, LIMITS.state), bytes }
}

/** A run: 0 for zeros, else the pack's index + 1 and the way from where the last run in that pack ended; then its bytes. */
function encodeExtents(extents: Extents, packs: number): Uint8Array {
  const out = createWriter()
  const ends = new Uint32Array(packs)
  for (let i = 0; i < extents.count; i++) {
    const pack = extents.pack[i] as number
    const length = extents.length[i] as number
    out.put(pack + 1)
    if (pack !== NONE) {
      const page = extents.page[i] as number
      out.putSigned(page - (ends[pack] as number))
      ends[pack] = page + pagesOf(length)
    }
    const tail = length % PAGE
    out.put(Math.floor(length / PAGE) * 2 + (tail === 0 ? 0 : 1))
    if (tail !== 0) out.put(tail)
  }
  return out.bytes()
}

function readExtents(bytes: Uint8Array, size: number, packs: Pack[], most: number): Extents {
  const reader = createReader(bytes, bad)
  // A run takes two bytes at least.
  const extents = emptyExtents(Math.min(most, bytes.length >> 1))
  const ends = new Uint32Array(packs.length)
  let total = 0
  while (!reader.ended()) {
    if (extents.count >= most) throw bad('too many runs')
    const pack = reader.take() - 1
    if (pack >= packs.length) throw bad('a pack that is not listed')
    const page = pack === NONE ? 0 : (ends[pack] as number) + reader.takeSigned()
    const pages = reader.take()
    const tail = pages % 2 === 0 ? 0 : reader.take()
    const length = Math.floor(pages / 2) * PAGE + tail
    if (length === 0 || length > LIMITS.extent || tail >= PAGE || (pages % 2 === 1 && tail === 0))
      throw bad("a run's length")
    if (pack !== NONE) {
      const end = page + pagesOf(length)
      if (page < 0 || end > (packs[pack] as Pack).pages) throw bad('a run outside of its pack')
      ends[pack] = end
    }
    if (joins(extents, pack, page) && (extents.length[extents.count - 1] as number) + length <= LIMITS.extent)
      throw bad('runs that are one')
    addExtent(extents, pack, page, length)
    total += length
  }
  if (total !== size) throw bad("runs that do not make up the file's size")
  return extents
}

export function emptyExtents(room: number): Extents {
  return { count: 0, pack: new Int32Array(room), page: new Uint32Array(room), length: new Uint32Array(room) }
}

/** The last run goes on with this page. */
export function joins(extents: Extents, pack: number, page: number): boolean {
  const last = extents.count - 1
  if (last < 0 || extents.pack[last] !== pack) return false
  const length = extents.length[last] as number
  return length % PAGE === 0 && (pack === NONE || (extents.page[last] as number) + length / PAGE === page)
}

/** Adds a run, or makes the last one longer. */
export function addExtent(extents: Extents, pack: number, page: number, length: number): void {
  const last = extents.count - 1
  if (joins(extents, pack, page) && (extents.length[last] as number) + length <= LIMITS.extent) {
    extents.length[last] = (extents.length[last] as number) + length
    return
  }
  if (extents.count === extents.pack.length) grow(extents)
  extents.pack[extents.count] = pack
  extents.page[extents.count] = page
  extents.length[extents.count] = length
  extents.count++
}

function grow(extents: Extents): void {
  const room = Math.max(16, extents.pack.length * 2)
  for (const key of ['pack', 'page', 'length'] as const) {
    const longer = key === 'pack' ? new Int32Array(room) : new Uint32Array(room)
    longer.set(extents[key])
    Object.assign(extents, { [key]: longer })
  }
}

function list(value: unknown, most: number, what: string): unknown[] {
  if (!Array.isArray(value) || value.length > most) throw bad(`no list of ${what}, or too long a one`)
  return value
}

function tuple(value: unknown, length: number): unknown[] {
  if (!Array.isArray(value) || value.length !== length) throw bad('an entry of another form')
  return value
}

function whole(value: unknown, most: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0 || value > most)
    throw bad('a number out of bounds')
  return value
}

function bad(what: string): ShoalError {
  return new ShoalError('PROTOCOL', `the recipe is not valid: ${what}`)
}
