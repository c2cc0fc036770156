import { closeSync, fstatSync, readSync } from 'node:fs'
import { PACK_PAGES, PAGE } from '../form/limits.ts'
import { placesOf } from '../form/places.ts'
import { type Extents, NONE } from '../form/recipe.ts'

const WINDOW = 2 ** 20
/** Compared at once first: most pages are the same, and a call costs as much as comparing a page. */
const GROUP = 16 * PAGE
/** Files below this are not worth an open one. */
export const WORTH = 2 ** 20

/** A file of the last capture, still open: it has what its runs say as long as nobody wrote to it. */
export interface LastFile {
  fd: number
  size: number
  mtimeNs: bigint
  /** With numbers of packs as the page table has them. */
  extents: Extents
}

/** Compares a file with what it was, which takes a third of the time of hashing it. Contents may have moved. */
export interface Comparison {
  /**
   * Bytes of `chunk`, from `from` on, that are what the last file has at the same place, moved by as much as the pages before; `at` is
   * the file's offset of the chunk. `add` gets their runs. 0: look at this page in another way.
   */
  match(at: number, chunk: Buffer, from: number, to: number, add: AddRun): number
  /** The page at this offset was known, and is at this place: the ones after it may have moved with it. */
  found(at: number, place: number): void
  /** Nobody has written to the last file yet. */
  isSound(): boolean
}

export type AddRun = (pack: number, page: number, length: number) => void

/** Undefined when the file was written to since. */
export function compareWith(last: LastFile): Comparison | undefined {
  const { fd, size, mtimeNs, extents } = last
  const isSound = (): boolean => {
    const now = fstatSync(fd, { bigint: true })
    return Number(now.size) === size && now.mtimeNs === mtimeNs
  }
  if (!isSound()) return undefined
  const window = Buffer.allocUnsafeSlow(WINDOW)
  const starts = new Float64Array(extents.count + 1)
  for (let i = 0; i < extents.count; i++)
    starts[i + 1] = (starts[i] as number) + (extents.length[i] as number)
  let places: Map<number, Float64Array> | undefined
  let delta = 0
  let candidate = 0
  let windowAt = 0
  let windowEnd = 0
  let run = 0

  function load(offset: number): void {
    windowAt = offset
    windowEnd = offset + readSync(fd, window, 0, WINDOW, offset)
  }

  function seek(offset: number): void {
    if (offset >= (starts[run] as number) && offset < (starts[run + 1] as number)) return
    if (offset === starts[run + 1] && run + 1 < extents.count) {
      run++
      return
    }
    let low = 0
    let high = extents.count - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if ((starts[middle] as number) <= offset) low = middle
      else high = middle - 1
    }
    run = low
  }

  /** The runs of a range of the last file; false where they do not begin with whole pages. */
  function addRuns(offset: number, length: number, add: AddRun): boolean {
    seek(offset)
    if ((offset - (starts[run] as number)) % PAGE !== 0) return false
    for (let done = 0; done < length; ) {
      seek(offset + done)
      const into = offset + done - (starts[run] as number)
      const part = Math.min(length - done, (extents.length[run] as number) - into)
      const pack = extents.pack[run] as number
      add(pack, pack === NONE ? 0 : (extents.page[run] as number) + into / PAGE, part)
      done += part
    }
    return true
  }

  return {
    isSound,
    match(at, chunk, from, to, add) {
      let done = 0
      while (from + done + PAGE <= to) {
        const offset = at + from + done + delta
        if (offset < 0 || offset + PAGE > size) break
        let length = Math.min(GROUP, size - offset, to - from - done)
        length -= length % PAGE
        if (offset < windowAt || offset + length > windowEnd) load(offset)
        if (offset + length > windowEnd) break
        const start = offset - windowAt
        const first = from + done
        while (length > 0 && chunk.compare(window, start, start + length, first, first + length) !== 0)
          length = length > PAGE ? PAGE : 0
        if (length === 0 || !addRuns(offset, length, add)) break
        done += length
      }
      return done
    },
    found(at, place) {
      places ??= placesOf(extents)
      const there = places.get(Math.floor(place / PACK_PAGES))?.[place % PACK_PAGES]
      if (there === undefined || there < 0) return
      // Two in a row: one alone may have its like elsewhere.
      if (there - at === candidate) delta = candidate
      candidate = there - at
    },
  }
}

export function closeAll(files: Iterable<LastFile>): void {
  for (const { fd } of files) closeSync(fd)
}
