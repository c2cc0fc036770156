import { hash } from 'node:crypto'
import { unpackFrame } from '../form/frames.ts'
import { frameBytes, type Pack } from '../form/recipe.ts'
import type { Job } from './job.ts'
import { fetchPack, startsOf } from './pack-reader.ts'

/** Unpacked frames that are kept: a file's pages come from many packs in turn, from each in its order. */
const FRAMES = 48
/** Parts of packs, not unpacked, that are kept, the one read last of each pack; so many bytes are asked for at once. */
const PARTS = 32
const PART = 128 * 1024

interface Part {
  /** Where in the pack it begins. */
  at: number
  bytes: Buffer
}

/** Frames of packs, for who reads files from the beginning to the end; 16 MiB, whoever reads and however many. */
export interface FrameCache {
  get(job: Job, pack: Pack, frame: number): Promise<Uint8Array>
}

export function createFrameCache(): FrameCache {
  const starts = new WeakMap<Pack, number[]>()
  const frames = new Map<string, Uint8Array>()
  const parts = new Map<string, Part>()

  const startsIn = (pack: Pack): number[] => {
    const known = starts.get(pack) ?? startsOf(pack)
    starts.set(pack, known)
    return known
  }

  /** A part that has the frame. Told by bytes, not by frames: a recipe may say wrong things of a pack. */
  async function partOf(job: Job, pack: Pack, frame: number): Promise<Part> {
    const all = startsIn(pack)
    const at = all[frame] as number
    let end = all[frame + 1] as number
    const known = parts.get(pack.digest)
    if (known && at >= known.at && end <= known.at + known.bytes.length)
      return used(parts, pack.digest, known, PARTS)
    await fetchPack(job, pack)
    for (let next = frame + 2; next < all.length && (all[next] as number) - at <= PART; next++)
      end = all[next] as number
    const bytes = Buffer.allocUnsafeSlow(end - at)
    let filled = 0
    for await (const chunk of job.read(pack.digest, at, end)) {
      bytes.set(chunk, filled)
      filled += chunk.length
    }
    return used(parts, pack.digest, { at, bytes }, PARTS)
  }

  return {
    async get(job, pack, frame) {
      // What was opened with a key is for who has that key.
      const lock = job.seal ? hash('sha256', job.seal.key) : ''
      const key = `${pack.digest}/${frame}/${lock}`
      const known = frames.get(key)
      const length = frameBytes(pack, frame)
      if (known?.length === length) return used(frames, key, known, FRAMES)
      const part = await partOf(job, pack, frame)
      const from = (startsIn(pack)[frame] as number) - part.at
      const packed = part.bytes.subarray(from, from + (pack.frames[frame] as number))
      return used(frames, key, unpackFrame(packed, length, job.seal?.key), FRAMES)
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
