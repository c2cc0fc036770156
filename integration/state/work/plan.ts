import { FRAME_PAGES, PAGE } from '../form/limits.ts'
import { placesOf } from '../form/places.ts'
import { type Extents, NONE, type Recipe, type RecipeFile } from '../form/recipe.ts'

/** Bytes of a pack that go to a place in a file; within one frame. */
export interface Need {
  /** First page in the pack. */
  page: number
  file: number
  offset: number
  length: number
}

/** A range of a file that is taken from the previous file of that name. */
export interface Copy {
  from: number
  to: number
  length: number
}

export interface FilePlan {
  path: string
  size: number
  /**
   * `new`: the file is written from nothing; `patch`: in the previous one's place; `move`: a new one is made, as contents have moved.
   */
  how: 'new' | 'patch' | 'move'
  /** Of `move`: all that the previous file has, at its place or another. */
  copies: Copy[]
  /** Ranges that are to be zeros and may be something else: of `patch` in the previous file, of `move` in one that is written over. */
  zeros: { offset: number; length: number }[]
}

export interface Plan {
  files: FilePlan[]
  /** By the pack's index in the recipe. */
  needs: Map<number, Need[]>
  /** Paths of the previous state that are not in this one. */
  gone: string[]
}

/** What must be written so that a directory that has `previous`, or nothing, has `recipe`. */
export function planAssembly(recipe: Recipe, previous: Recipe | undefined): Plan {
  const old = new Map(previous?.files.map((file) => [file.path, file]))
  const numbers = packNumbers(recipe, previous)
  const needs = new Map<number, Need[]>()
  const files = recipe.files.map((file, index): FilePlan => {
    const before = old.get(file.path)
    const need = (pack: number, page: number, offset: number, length: number): void =>
      addNeed(needs, pack, page, index, offset, length)
    return before ? planFile(file, before, numbers, need) : planNew(file, need)
  })
  const paths = new Set(recipe.files.map(({ path }) => path))
  return { files, needs, gone: [...old.keys()].filter((path) => !paths.has(path)) }
}

type AddNeed = (pack: number, page: number, offset: number, length: number) => void

function planNew({ path, size, extents }: RecipeFile, need: AddNeed): FilePlan {
  let offset = 0
  for (let i = 0; i < extents.count; i++) {
    const length = extents.length[i] as number
    const pack = extents.pack[i] as number
    if (pack !== NONE) need(pack, extents.page[i] as number, offset, length)
    offset += length
  }
  return { path, size, how: 'new', copies: [], zeros: [] }
}

/** For each pack of the previous recipe the same pack's index in this one; NONE where it has it not. */
function packNumbers(recipe: Recipe, previous: Recipe | undefined): Int32Array {
  const at = new Map(recipe.packs.map(({ digest }, index) => [digest, index]))
  return Int32Array.from(previous?.packs ?? [], ({ digest }) => at.get(digest) ?? NONE)
}

/** Page by page: at its place in the previous file, elsewhere in it, or to be had from a pack. */
function planFile(file: RecipeFile, before: RecipeFile, numbers: Int32Array, need: AddNeed): FilePlan {
  const { path, size, extents } = file
  const places = placesOf(before.extents, (pack) => numbers[pack] as number)
  const old = createCursor(before.extents)
  const copies: Copy[] = []
  const zeros: FilePlan['zeros'] = []
  const holes: FilePlan['zeros'] = []
  let isMoved = false
  let offset = 0

  const place = (pack: number, page: number, length: number): void => {
    old.seek(offset)
    const isSame = old.pack !== NONE && numbers[old.pack] === pack && old.page === page && old.left >= length
    const from = isSame ? offset : length === PAGE ? places.get(pack)?.[page] : undefined
    if (from === undefined || from < 0) {
      need(pack, page, offset, length)
      return
    }
    if (from !== offset) isMoved = true
    addCopy(copies, from, offset, length)
  }

  for (let i = 0; i < extents.count; i++) {
    const pack = extents.pack[i] as number
    const length = extents.length[i] as number
    const end = offset + length
    if (pack === NONE) {
      holes.push({ offset, length })
      // Where the old file ends, zeros come by themselves.
      for (old.seek(offset); offset < end && old.left > 0; old.seek(offset)) {
        const part = Math.min(old.rest, end - offset)
        if (old.pack !== NONE) zeros.push({ offset, length: part })
        offset += part
      }
      offset = end
      continue
    }
    for (let page = extents.page[i] as number; offset < end; page++) {
      const part = Math.min(PAGE, end - offset)
      place(pack, page, part)
      offset += part
    }
  }
  return isMoved
    ? { path, size, how: 'move', copies, zeros: holes }
    : { path, size, how: 'patch', copies: [], zeros }
}

/** What an offset of a file is made of. */
function createCursor(extents: Extents) {
  let index = 0
  let start = 0
  const cursor = {
    pack: NONE,
    /** The page that begins at the offset; NONE where none does. */
    page: NONE,
    /** Bytes of that page, or of zeros, that the file has from there; 0 at its end. */
    left: 0,
    /** Bytes to the end of the run. */
    rest: 0,
    /** Offsets never go back. */
    seek(offset: number): void {
      while (index < extents.count && start + (extents.length[index] as number) <= offset)
        start += extents.length[index++] as number
      if (index >= extents.count) {
        Object.assign(cursor, { pack: NONE, page: NONE, left: 0, rest: 0 })
        return
      }
      const into = offset - start
      cursor.pack = extents.pack[index] as number
      cursor.page = into % PAGE === 0 ? (extents.page[index] as number) + into / PAGE : NONE
      cursor.rest = (extents.length[index] as number) - into
      cursor.left = Math.min(PAGE, cursor.rest)
    },
  }
  return cursor
}

function addCopy(copies: Copy[], from: number, to: number, length: number): void {
  const last = copies.at(-1)
  if (last && last.from + last.length === from && last.to + last.length === to) last.length += length
  else copies.push({ from, to, length })
}

/** Cut at frames, and made longer where both the pack and the file go on. */
function addNeed(
  needs: Map<number, Need[]>,
  pack: number,
  page: number,
  file: number,
  offset: number,
  length: number,
): void {
  let of = needs.get(pack)
  if (!of) {
    of = []
    needs.set(pack, of)
  }
  for (let done = 0; done < length; ) {
    const first = page + done / PAGE
    const room = (FRAME_PAGES - (first % FRAME_PAGES)) * PAGE
    const part = Math.min(room, length - done)
    const last = of.at(-1)
    const goesOn =
      last &&
      last.file === file &&
      last.offset + last.length === offset + done &&
      last.page * PAGE + last.length === first * PAGE &&
      first % FRAME_PAGES !== 0
    if (goesOn) last.length += part
    else of.push({ page: first, file, offset: offset + done, length: part })
    done += part
  }
}

/** In the order of the pack. */
export function sortNeeds(needs: Need[]): Need[] {
  return needs.sort((a, b) => a.page - b.page)
}
