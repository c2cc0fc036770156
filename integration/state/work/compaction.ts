import { LIMITS, PACK_PAGES } from '../form/limits.ts'
import { NONE, type Pack, pagesOf, type Recipe } from '../form/recipe.ts'

/** Packs beyond those that the live pages need. */
const MOST_PACKS = 32

/**
 * The packs of a base that the next state may build on. Left out, so that what is still needed of them is written again:
 * - the ones with the smallest live part, while more than half of all pages is dead: packs are at most twice the live pages;
 * - half of the smallest, when there are more than MOST_PACKS beyond what the live pages would fill;
 * - all, when runs are so many that the next recipe might not be read any more.
 */
export function choosePacks(recipe: Recipe): Pack[] {
  const runs = recipe.files.reduce((sum, { extents }) => sum + extents.count, 0)
  if (runs > LIMITS.extents / 4) return []
  const live = livePages(recipe)
  const left = recipe.packs.map((pack, index) => ({ pack, live: live[index] as number }))
  let pages = left.reduce((sum, entry) => sum + entry.pack.pages, 0)
  let needed = left.reduce((sum, entry) => sum + entry.live, 0)

  left.sort((a, b) => b.live / b.pack.pages - a.live / a.pack.pages)
  while (pages > 2 * needed) {
    const worst = left.pop()
    pages -= worst?.pack.pages ?? 0
    needed -= worst?.live ?? 0
  }

  const most = MOST_PACKS + Math.ceil(needed / PACK_PAGES)
  if (left.length > most) {
    left.sort((a, b) => b.live - a.live)
    left.length = most - MOST_PACKS / 2
  }
  const chosen = new Set(left.map(({ pack }) => pack))
  return recipe.packs.filter((pack) => chosen.has(pack))
}

/** How many pages of each pack some file needs; one that several need counts once. */
export function livePages({ packs, files }: Recipe): number[] {
  const used = packs.map((pack) => new Uint8Array(pack.pages))
  for (const { extents } of files) {
    for (let i = 0; i < extents.count; i++) {
      const pack = extents.pack[i] as number
      if (pack === NONE) continue
      const page = extents.page[i] as number
      used[pack]?.fill(1, page, page + pagesOf(extents.length[i] as number))
    }
  }
  return used.map((pages) => pages.reduce((sum, value) => sum + value, 0))
}
