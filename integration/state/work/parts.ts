import type { Pack } from '../form/recipe.ts'
import type { Job, Part } from './job.ts'
import type { Batch } from './order.ts'
import { startsOf } from './pack-reader.ts'

/** Blocks of a blob are as long: a part is within one. */
const PART = 2 ** 20
/** Parts that are set aside at the same time. More than are in use at once, and as many as a state has versions, mostly. */
const MOST = 64
/** Parts that are asked for at once: the daemon has a block in its memory for each. */
const LANES = 2

interface Wanted {
  pack: Pack
  start: number
  end: number
  /** Frames that still need it. */
  left: number
  part: Promise<Part> | undefined
}

/** The bytes of frames of packs, for who wants frames of many packs in turn. */
export interface Parts {
  /** It will be asked for soon. */
  expect(batch: Batch): void
  /** Resolves when `into` has the frame, still packed. Frames that were wanted by an earlier call are there first. */
  frame(batch: Batch, into: Uint8Array): Promise<void>
}

/** @param arrived brings a pack here @param batches all that will be wanted */
export function createParts(deps: {
  job: Job
  packs: readonly Pack[]
  batches: readonly Batch[]
  arrived: (pack: Pack) => Promise<void>
}): Parts {
  const { job, packs, batches, arrived } = deps
  const starts = new Map<number, number[]>()
  const wanted = new Map<string, Wanted>()
  /** Those that are set aside, by the time of their last use. */
  const here = new Set<Wanted>()
  const lanes: Promise<unknown>[] = Array(LANES).fill(Promise.resolve())
  let turn = 0

  function startsIn(pack: number): number[] {
    const known = starts.get(pack) ?? startsOf(packs[pack] as Pack)
    starts.set(pack, known)
    return known
  }

  /** The pieces that a frame is in: one, or two where it goes over the end of a block. */
  function* piecesOf({ pack, frame }: Batch): Generator<{ key: string; start: number; end: number }> {
    const all = startsIn(pack)
    const end = all[frame + 1] as number
    for (let start = all[frame] as number; start < end; ) {
      const block = Math.floor(start / PART)
      const to = Math.min(end, (block + 1) * PART)
      yield { key: `${pack}/${block}`, start, end: to }
      start = to
    }
  }

  for (const batch of batches) {
    for (const { key, start, end } of piecesOf(batch)) {
      const known = wanted.get(key)
      if (known) {
        known.start = Math.min(known.start, start)
        known.end = Math.max(known.end, end)
        known.left++
      } else {
        wanted.set(key, { pack: packs[batch.pack] as Pack, start, end, left: 1, part: undefined })
      }
    }
  }

  function load({ pack, start, end }: Wanted): Promise<Part> {
    const lane = turn++ % LANES
    const part = (lanes[lane] as Promise<unknown>).then(async () => {
      await arrived(pack)
      job.check()
      return job.load(pack.digest, start, end)
    })
    lanes[lane] = part.catch(() => {})
    return part
  }

  function drop(entry: Wanted): void {
    here.delete(entry)
    entry.part?.then(
      (part) => part.drop(),
      () => {},
    )
    entry.part = undefined
  }

  function use(entry: Wanted): Promise<Part> {
    entry.part ??= load(entry)
    here.delete(entry)
    here.add(entry)
    for (const oldest of here) {
      if (here.size <= MOST) break
      drop(oldest)
    }
    return entry.part
  }

  return {
    expect(batch) {
      for (const { key } of piecesOf(batch)) use(wanted.get(key) as Wanted).catch(() => {})
    },
    async frame(batch, into) {
      const from = startsIn(batch.pack)[batch.frame] as number
      // All are asked for before any is waited for.
      const pieces = [...piecesOf(batch)].map((piece) => {
        const entry = wanted.get(piece.key) as Wanted
        return { ...piece, entry, part: use(entry) }
      })
      const parts = await Promise.all(pieces.map(({ part }) => part))
      for (const [index, { start, end, entry }] of pieces.entries()) {
        parts[index]?.copy(into.subarray(start - from, end - from), start)
        if (--entry.left === 0) drop(entry)
      }
    },
  }
}
