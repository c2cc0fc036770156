import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { StoreState } from './state.ts'

/** The file that only a tidy `close` leaves, with the counts it ended on. */
const NAME = 'clean.json'

type Totals = StoreState['totals']

export async function leaveCleanMark(dir: string, totals: Totals): Promise<void> {
  await writeFile(join(dir, NAME), JSON.stringify(totals), { mode: 0o600 })
}

/** Removes the mark and resolves to its counts; undefined if there is none that can be read: the last stop was a crash. */
export async function takeCleanMark(dir: string): Promise<Totals | undefined> {
  const path = join(dir, NAME)
  const text = await readFile(path, 'utf8').catch(() => undefined)
  await rm(path, { force: true })
  if (text === undefined) return undefined
  try {
    const { bytes = NaN, blocks = NaN, borrowed = 0 } = JSON.parse(text) as Partial<Totals>
    return [bytes, blocks, borrowed].every(Number.isSafeInteger) ? { bytes, blocks, borrowed } : undefined
  } catch {
    return undefined
  }
}
