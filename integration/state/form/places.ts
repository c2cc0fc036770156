import { PAGE } from './limits.ts'
import { type Extents, NONE } from './recipe.ts'

/** Where in a file the whole pages of each pack are; -1: nowhere. @param numberOf another number of the pack; NONE: leave it out */
export function placesOf(
  extents: Extents,
  numberOf = (pack: number): number => pack,
): Map<number, Float64Array> {
  const ends = new Map<number, number>()
  const each = (visit: (pack: number, page: number, pages: number, offset: number) => void): void => {
    let offset = 0
    for (let i = 0; i < extents.count; i++) {
      const length = extents.length[i] as number
      const pack = extents.pack[i] === NONE ? NONE : numberOf(extents.pack[i] as number)
      if (pack !== NONE) visit(pack, extents.page[i] as number, Math.floor(length / PAGE), offset)
      offset += length
    }
  }
  each((pack, page, pages) => ends.set(pack, Math.max(ends.get(pack) ?? 0, page + pages)))
  const places = new Map([...ends].map(([pack, end]) => [pack, new Float64Array(end).fill(-1)]))
  each((pack, page, pages, offset) => {
    const of = places.get(pack) as Float64Array
    for (let i = 0; i < pages; i++) of[page + i] = offset + i * PAGE
  })
  return places
}
