import type { Digest, Log } from '../base/index.ts'
import { createBlobTable, decodeBlob } from './blob-table.ts'
import { takeCleanMark } from './clean-mark.ts'
import { openBlockFiles } from './files.ts'
import { openKeyIndex } from './key-index.ts'
import { afterAll, BLOBS } from './keys.ts'
import { createPlaces } from './places.ts'
import { createSpare } from './spare.ts'
import type { StoreState } from './state.ts'
import { sweep } from './sweep.ts'

/** What a store has on disk, open and in agreement with itself. Whoever gets it closes the index. */
export async function load({
  dir,
  log,
  now,
  signal,
  repair,
}: {
  dir: string
  log: Log
  now: () => number
  signal: AbortSignal | undefined
  repair: boolean
}): Promise<Pick<StoreState, 'files' | 'places' | 'index' | 'blobs' | 'spare' | 'totals'>> {
  const spare = createSpare({ dir, log })
  const index = await openKeyIndex({ dir, spare, log, repair })
  try {
    // Only now, under the index's lock, may anything else be touched.
    const files = await openBlockFiles(dir)
    const counted = await takeCleanMark(dir)
    const leftovers = await files.sweepStaged()
    const blobs = createBlobTable({ now })
    for (const [key, value] of await index.entries({ from: BLOBS, to: afterAll(BLOBS) })) {
      blobs.add(decodeBlob(key.slice(BLOBS.length) as Digest, value))
    }
    const places = createPlaces({ files, blobs })
    let totals = repair ? undefined : counted
    if (totals === undefined) {
      const startedAt = performance.now()
      const swept = await sweep({ files, places, index, blobs, log, now, repaired: repair, signal })
      totals = { bytes: swept.bytes, blocks: swept.blocks, borrowed: swept.borrowed }
      if (swept.blocks + swept.borrowed + swept.strays + swept.lost + leftovers > 0) {
        const ms = Math.round(performance.now() - startedAt)
        log.info({ dir, ...swept, leftovers, ms }, 'the block store was not closed: looked through it')
      }
    }
    await spare.ensure()
    return { files, places, index, blobs, spare, totals }
  } catch (error) {
    await index.close().catch(() => {})
    throw error
  }
}
