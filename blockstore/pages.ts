import type { KeyIndex } from './key-index.ts'
import { afterAll } from './keys.ts'

/** Entries in memory at once. */
export const PAGE = 2000

/** All entries below a prefix, page by page, so that whoever walks through them may write meanwhile. */
export async function* pages(index: KeyIndex, prefix: string): AsyncGenerator<[key: string, value: string]> {
  const to = afterAll(prefix)
  let from = prefix
  let after = false
  for (;;) {
    const entries = await index.entries({ from, after, to, limit: PAGE })
    yield* entries
    if (entries.length < PAGE) return
    from = entries[entries.length - 1]?.[0] ?? to
    after = true
  }
}
