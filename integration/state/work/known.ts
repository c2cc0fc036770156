import { type Digest, isShoalError } from '../../../base/index.ts'
import type { Pack, Recipe } from '../form/recipe.ts'
import { choosePacks } from './compaction.ts'
import { type Job, readRecipe } from './job.ts'
import { closeAll, type LastFile } from './last-dump.ts'
import { fetchPack } from './pack-reader.ts'
import type { PageNames } from './page-names.ts'
import { createPageTable, type PageTable } from './page-table.ts'

/** What a capture need not write again: pages of the packs that its base is made of. */
export interface Known {
  /** Its packs have the numbers that they have in `packs`. */
  table: PageTable
  packs: Pack[]
  /** Files of the base as this process read them, by path. */
  last: ReadonlyMap<string, LastFile>
  /** Remembers the names of a new pack's pages. */
  save(pack: number): void
  /** The capture is done: the next one may build on it. */
  keep(recipe: Digest, made: Recipe, files: Map<string, LastFile>): void
}

/** A capture that was made here, for the next one of the same workload. */
interface Warm {
  recipe: Digest
  made: Recipe
  table: PageTable
  files: Map<string, LastFile>
}

/** So many workloads are kept ready, and for so many pages each, some 40 bytes a page. */
const MOST_WARM = 4
const MOST_PAGES = 2 ** 18

export type LoadKnown = (job: Job, base: Digest | undefined, names: PageNames) => Promise<Known>

/**
 * Only packs that are whole here are known: a new recipe must not name what may be nowhere. A base that is not here, or of another
 * seal, is none.
 */
export function createKnowledge(): LoadKnown {
  const warm = new Map<Digest, Warm>()

  function keep(entry: Warm): void {
    const pages = entry.made.packs.reduce((sum, pack) => sum + pack.pages, 0)
    drop(entry.recipe)
    const oldest = warm.keys().next().value
    if (warm.size >= MOST_WARM && oldest !== undefined) drop(oldest)
    if (pages <= MOST_PAGES) warm.set(entry.recipe, entry)
    else closeAll(entry.files.values())
  }

  function drop(recipe: Digest): void {
    closeAll(warm.get(recipe)?.files.values() ?? [])
    warm.delete(recipe)
  }

  /** What was kept of the base, if nothing of it is gone and nothing is to be written anew. */
  async function takeWarm(job: Job, base: Digest): Promise<Warm | undefined> {
    const entry = warm.get(base)
    if (!entry || entry.made.seal !== job.seal?.id) return undefined
    warm.delete(base)
    let isSound = false
    try {
      const { packs } = entry.made
      const isHere = await job.call('here', { digests: packs.map(({ digest }) => digest) })
      isSound = isHere === true && choosePacks(entry.made).length === packs.length
    } finally {
      if (!isSound) closeAll(entry.files.values())
    }
    return isSound ? entry : undefined
  }

  return async (job, base, names) => {
    const entry = base === undefined ? undefined : await takeWarm(job, base)
    const { table, packs } = entry
      ? { table: entry.table, packs: entry.made.packs }
      : await load(job, base, names)
    return {
      table,
      packs,
      last: entry?.files ?? new Map(),
      save: (pack) => names.save((packs[pack] as Pack).digest, table.names(pack)),
      keep(recipe, made, files) {
        // Packs that are not needed any more have other numbers in the table.
        if (made.packs.length === packs.length) keep({ recipe, made, table, files })
        else closeAll(files.values())
      },
    }
  }
}

async function load(
  job: Job,
  base: Digest | undefined,
  names: PageNames,
): Promise<{ table: PageTable; packs: Pack[] }> {
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
  return { table, packs }
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
