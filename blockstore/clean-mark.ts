import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { StoreState } from './state.ts'

/** The file that only a tidy `close` leaves, with the counts it ended on. */
const NAME = 'clean.json'

type Totals = StoreState['totals']

export async function leaveCleanMark(dir: string, { bytes, blocks }: Totals): Promise<void> {
  await writeFile(join(dir, NAME), JSON.stringify({ bytes, blocks }), { mode: 0o600 })
}

/** Removes the mark and resolves to its counts; undefined if there is none that can be read: the last stop was a crash. */
export async function takeCleanMark(dir: string): Promise<Totals | undefined> {
  const path = join(dir, NAME)
  const text = await readFile(path, 'utf8').catch(() => undefined)
  await rm(path, { force: true })
  if (text === undefined) return undefined
  try {
    const { bytes, blocks } = JSON.parse(text) as Partial<Totals>
    if (!Number.isSafeInteger(bytes) || !Number.isSafeInteger(blocks)) return undefined
    return { bytes: bytes ?? 0, blocks: blocks ?? 0 }
  } catch {
    return undefined
  }
}
