import { FRAME_PAGES, PAGE } from '../form/limits.ts'
import { pagesOf } from '../form/recipe.ts'
import { type Need, type Plan, sortNeeds } from './plan.ts'

/** A frame that is unpacked, and where its pages go. */
export interface Batch {
  /** Index in the recipe. */
  pack: number
  frame: number
  needs: Need[]
  /** The lowest address that it has something for. */
  first: number
}

/** All files of a state one after another, as one range of addresses; each begins with a page. */
export interface Addresses {
  of(file: number, offset: number): number
  /** The file that has this address, where in it, and how much of it there is from there. */
  at(address: number): { file: number; offset: number; left: number }
}

export function createAddresses(sizes: readonly number[]): Addresses {
  const starts = new Float64Array(sizes.length + 1)
  for (const [file, size] of sizes.entries())
    starts[file + 1] = (starts[file] as number) + pagesOf(size) * PAGE
  return {
    of: (file, offset) => (starts[file] as number) + offset,
    at(address) {
      let low = 0
      let high = sizes.length - 1
      while (low < high) {
        const middle = (low + high + 1) >> 1
        if ((starts[middle] as number) <= address) low = middle
        else high = middle - 1
      }
      const offset = address - (starts[low] as number)
      return { file: low, offset, left: (sizes[low] as number) - offset }
    },
  }
}

/**
 * Every frame that is needed, once, in the order of the files. What a state took over from many versions comes from as many packs, from each
 * in its order: side by side, their pages make up the files from the beginning to the end.
 */
export function inOrder(plan: Plan, addresses: Addresses): Batch[] {
  const batches: Batch[] = []
  for (const [pack, needs] of plan.needs) {
    let last: Batch | undefined
    for (const need of sortNeeds(needs)) {
      const frame = Math.floor(need.page / FRAME_PAGES)
      const first = addresses.of(need.file, need.offset)
      if (last?.frame === frame) {
        last.needs.push(need)
        last.first = Math.min(last.first, first)
      } else {
        last = { pack, frame, needs: [need], first }
        batches.push(last)
      }
    }
  }
  return batches.sort((a, b) => a.first - b.first)
}
