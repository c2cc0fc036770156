import { FRAME_PAGES, PAGE } from '../form/limits.ts'
import { NONE, type Pack, type Recipe, type RecipeFile } from '../form/recipe.ts'
import type { FrameCache } from './frame-cache.ts'
import type { Job } from './job.ts'

/** Gives a range of a file piece by piece; each is valid until the next is asked for. */
export async function* readRange(request: {
  job: Job
  cache: FrameCache
  recipe: Recipe
  file: RecipeFile
  start: number
  end: number
}): AsyncGenerator<Uint8Array> {
  const { job, cache, recipe, start, end } = request
  const { extents } = request.file
  const zeros = Buffer.alloc(FRAME_PAGES * PAGE)
  let at = 0
  for (let i = 0; i < extents.count && at < end; i++) {
    const length = extents.length[i] as number
    const pack = extents.pack[i] as number
    const to = Math.min(end - at, length)
    for (let done = Math.max(0, start - at); done < to; ) {
      let piece: Uint8Array
      if (pack === NONE) {
        piece = zeros.subarray(0, Math.min(zeros.length, to - done))
      } else {
        const page = (extents.page[i] as number) + Math.floor(done / PAGE)
        const frame = await cache.get(job, recipe.packs[pack] as Pack, Math.floor(page / FRAME_PAGES))
        const into = (page % FRAME_PAGES) * PAGE + (done % PAGE)
        piece = frame.subarray(into, Math.min(frame.length, into + to - done))
      }
      yield piece
      done += piece.length
    }
    at += length
  }
}
