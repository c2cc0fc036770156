import { FRAME_PAGES, PAGE } from '../form/limits.ts'
import { NONE, type Pack, type Recipe, type RecipeFile } from '../form/recipe.ts'
import type { Job } from './job.ts'
import { eachFrame, fetchPack } from './pack-reader.ts'

/** Unpacked frames that are kept: a file's pages come from many packs in turn, from each in its order. */
const KEPT = 24
/** Frames that are read at once where a file goes on in one pack. */
const AHEAD = 4

/** Gives a range of a file piece by piece; each is valid until the next is asked for. */
export async function* readRange(
  job: Job,
  recipe: Recipe,
  file: RecipeFile,
  start: number,
  end: number,
): AsyncGenerator<Uint8Array> {
  const { extents } = file
  const fetched = new Set<Pack>()
  const frames = new Map<string, Buffer>()
  const zeros = Buffer.alloc(64 * PAGE)

  async function frameOf(index: number, frame: number): Promise<Buffer> {
    const key = `${index}/${frame}`
    const known = frames.get(key)
    if (known) {
      frames.delete(key)
      frames.set(key, known)
      return known
    }
    const pack = recipe.packs[index] as Pack
    if (!fetched.has(pack)) await fetchPack(job, pack)
    fetched.add(pack)
    const wanted = Array.from({ length: Math.min(AHEAD, pack.frames.length - frame) }, (_, i) => frame + i)
    await eachFrame(
      job,
      pack,
      wanted,
      (each, bytes) => void frames.set(`${index}/${each}`, Buffer.from(bytes)),
    )
    for (const old of frames.keys()) {
      if (frames.size <= KEPT) break
      if (old !== key) frames.delete(old)
    }
    return frames.get(key) as Buffer
  }

  let at = 0
  for (let i = 0; i < extents.count && at < end; i++) {
    const length = extents.length[i] as number
    const pack = extents.pack[i] as number
    const to = Math.min(end - at, length)
    for (let done = Math.max(0, start - at); done < to; ) {
      let piece: Buffer
      if (pack === NONE) {
        piece = zeros.subarray(0, Math.min(zeros.length, to - done))
      } else {
        const page = (extents.page[i] as number) + Math.floor(done / PAGE)
        const frame = await frameOf(pack, Math.floor(page / FRAME_PAGES))
        const into = (page % FRAME_PAGES) * PAGE + (done % PAGE)
        piece = frame.subarray(into, Math.min(frame.length, into + to - done))
      }
      yield piece
      done += piece.length
    }
    at += length
  }
}
