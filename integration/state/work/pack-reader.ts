import { ShoalError } from '../../../base/index.ts'
import { unpackFrame } from '../form/frames.ts'
import { FRAME } from '../form/limits.ts'
import { frameBytes, type Pack, packSize } from '../form/recipe.ts'
import { SEALED_EXTRA } from '../form/seal.ts'
import type { Job } from './job.ts'

/** Frames that are not wanted but lie between two that are, up to so many bytes, are read along. */
const GAP = 256 * 1024

/**
 * Brings a pack here and unpacks the frames given, in their order; `take` has the bytes during the call.
 * @throws PROTOCOL where the pack is not what the recipe says
 */
export async function eachFrame(
  job: Job,
  pack: Pack,
  frames: readonly number[],
  take: (frame: number, bytes: Uint8Array) => void,
): Promise<void> {
  const starts = startsOf(pack)
  for (let first = 0; first < frames.length; ) {
    let last = first
    while (
      last + 1 < frames.length &&
      starts[frames[last + 1] as number]! - starts[(frames[last] as number) + 1]! <= GAP
    )
      last++
    await readRun(job, pack, starts, frames.slice(first, last + 1), take)
    first = last + 1
  }
}

/** Where each frame begins, and the last one ends. */
export function startsOf(pack: Pack): number[] {
  const starts = [0]
  for (const length of pack.frames) starts.push((starts.at(-1) as number) + length)
  return starts
}

/** @throws PROTOCOL when the blob has another size than the recipe says */
export async function fetchPack(job: Job, pack: Pack): Promise<void> {
  const size = packSize(pack)
  if ((await job.fetch({ digest: pack.digest, size })) !== size)
    throw new ShoalError('PROTOCOL', 'a pack has another size than its recipe says')
}

async function readRun(
  job: Job,
  pack: Pack,
  starts: number[],
  frames: readonly number[],
  take: (frame: number, bytes: Uint8Array) => void,
): Promise<void> {
  const spill = Buffer.allocUnsafeSlow(FRAME + SEALED_EXTRA)
  const end = starts[(frames.at(-1) as number) + 1] as number
  let at = starts[frames[0] as number] as number
  let next = 0
  let filled = 0
  for await (const chunk of job.read(pack.digest, at, end)) {
    for (let used = 0; used < chunk.length && next < frames.length; ) {
      const frame = frames[next] as number
      const from = starts[frame] as number
      const length = pack.frames[frame] as number
      if (at < from) {
        const skipped = Math.min(from - at, chunk.length - used)
        used += skipped
        at += skipped
        continue
      }
      const part = Math.min(length - filled, chunk.length - used)
      const bytes = chunk.subarray(used, used + part)
      used += part
      at += part
      if (part === length) {
        take(frame, unpackFrame(bytes, frameBytes(pack, frame), job.seal?.key))
      } else {
        spill.set(bytes, filled)
        filled += part
        if (filled < length) continue
        take(frame, unpackFrame(spill.subarray(0, length), frameBytes(pack, frame), job.seal?.key))
        filled = 0
      }
      next++
    }
    await job.turn()
  }
  if (next < frames.length) throw new ShoalError('PROTOCOL', 'a pack is shorter than its recipe says')
}
