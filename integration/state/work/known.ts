import { type Digest, isShoalError } from '../../../base/index.ts'
import { PACK_PAGES } from '../form/limits.ts'
import type { Pack, Recipe } from '../form/recipe.ts'
import { choosePacks } from './compaction.ts'
import { type Job, readRecipe } from './job.ts'
import { fetchPack } from './pack-reader.ts'
import type { PageNames } from './page-names.ts'
import { createPageTable, type PageTable } from './page-table.ts'

/** What a capture need not write again: pages of the packs that its base is made of. */
export interface Known {
  /** Its packs have the numbers that they have in `packs`. */
  table: PageTable
  packs: Pack[]
  packOf(place: number): number
  pageOf(place: number): number
  /** Remembers the names of a new pack's pages. */
  save(pack: number): void
}

/** Only packs that are whole here: the new recipe must not name what may be nowhere. A base that is not here, or of another seal, is none. */
export async function loadKnown(job: Job, base: Digest | undefined, names: PageNames): Promise<Known> {
  const table = createPageTable()
  const packs: Pack[] = []
  for (const pack of await packsOf(job, base)) {
    try {
      await fetchPack(job, pack)
      table.add(await names.load(pack, job))
      packs.push(pack)
    } catch (error) {
      if (!isShoalError(error, 'NOT_FOUND', 'BLOCK_MISSING')) throw error
    }
  }
  return {
    table,
    packs,
    packOf: (place) => Math.floor(place / PACK_PAGES),
    pageOf: (place) => place % PACK_PAGES,
    save: (pack) => names.save((packs[pack] as Pack).digest, table.names(pack)),
  }
}

async function packsOf(job: Job, base: Digest | undefined): Promise<Pack[]> {
  if (base === undefined) return []
  let recipe: Recipe
  try {
    recipe = (await readRecipe(job, base)).recipe
  } catch (error) {
    if (isShoalError(error, 'NOT_FOUND', 'PROTOCOL', 'DENIED')) return []
    throw error
  }
  return choosePacks(recipe)
}
