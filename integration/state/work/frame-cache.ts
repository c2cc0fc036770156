import { unpackFrame } from '../form/frames.ts'
import { frameBytes, type Pack, type Recipe } from '../form/recipe.ts'
import type { Job } from './job.ts'
import { fetchPack, startsOf } from './pack-reader.ts'

/** Unpacked frames that are kept: a file's pages come from many packs in turn, from each in its order. */
const FRAMES = 24
/** Parts of packs, not unpacked, that are kept; so many bytes are asked for at once. */
const PARTS = 12
const PART = 512 * 1024

interface Part {
  first: number
  /** Exclusive. */
  end: number
  at: number
  bytes: Buffer
}

/** Frames of a recipe's packs, for who reads files from the beginning to the end. */
export interface FrameCache {
  /** @param pack its index in the recipe */
  get(pack: number, frame: number): Promise<Uint8Array>
}

export function createFrameCache(job: Job, recipe: Recipe): FrameCache {
  const starts = new Map<Pack, number[]>()
  const frames = new Map<string, Uint8Array>()
  const parts = new Map<number, Part>()

  async function partOf(index: number, frame: number): Promise<Part> {
    const known = parts.get(index)
    if (known && frame >= known.first && frame < known.end) return used(parts, index, known, PARTS)
    const pack = recipe.packs[index] as Pack
    let at = starts.get(pack)
    if (!at) {
      await fetchPack(job, pack)
      at = startsOf(pack)
      starts.set(pack, at)
    }
    const begin = at[frame] as number
    let end = frame + 1
    while (end < pack.frames.length && (at[end + 1] as number) - begin <= PART) end++
    const bytes = Buffer.allocUnsafeSlow((at[end] as number) - begin)
    let filled = 0
    for await (const chunk of job.read(pack.digest, begin, begin + bytes.length)) {
      bytes.set(chunk, filled)
      filled += chunk.length
    }
    return used(parts, index, { first: frame, end, at: begin, bytes }, PARTS)
  }

  return {
    async get(index, frame) {
      const key = `${index}/${frame}`
      const known = frames.get(key)
      if (known) return used(frames, key, known, FRAMES)
      const pack = recipe.packs[index] as Pack
      const part = await partOf(index, frame)
      const from = ((starts.get(pack) as number[])[frame] as number) - part.at
      const packed = part.bytes.subarray(from, from + (pack.frames[frame] as number))
      const bytes = unpackFrame(packed, frameBytes(pack, frame), job.seal?.key)
      return used(frames, key, bytes, FRAMES)
    },
  }
}

/** Puts it last, and lets the ones go that were not used for longest. */
function used<K, V>(map: Map<K, V>, key: K, value: V, most: number): V {
  map.delete(key)
  map.set(key, value)
  for (const old of map.keys()) {
    if (map.size <= most) break
    map.delete(old)
  }
  return value
}
