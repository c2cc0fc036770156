import { ShoalError } from '../base/index.ts'
import type { KeyIndex, Op } from './key-index.ts'
import type { Records } from './types.ts'

const PAGE = 256
/** Sorts after every character of a key: UTF-8 has no such byte, but the order of code points is enough here. */
const LAST = '\u{10ffff}'

/**
 * A table of JSON values under `record/<name>/`.
 * @param track what every operation runs in: refuses when the store is closed
 * @param write one batch, in turn with all other writes
 */
export function createRecords<T>({
  name,
  index,
  track,
  write,
}: {
  name: string
  index: KeyIndex
  track: <R>(work: () => Promise<R>) => Promise<R>
  write: (ops: Op[], options?: { sync?: boolean }) => Promise<void>
}): Records<T> {
  if (!/^[\w.-]+$/.test(name)) throw new ShoalError('NAME_INVALID', `not a name of a table: ${name}`)
  const root = `record/${name}/`
  return {
    get: (key) =>
      track(async () => {
        const value = await index.get(root + key)
        return value === undefined ? undefined : (JSON.parse(value) as T)
      }),
    put: (key, value, options) =>
      track(async () => {
        const text = JSON.stringify(value) as string | undefined
        if (text === undefined) throw new ShoalError('INTERNAL', `no JSON has the value for ${name}/${key}`)
        await write([{ type: 'put', key: root + key, value: text }], options)
      }),
    delete: (key) => track(() => write([{ type: 'del', key: root + key }])),
    async *entries(prefix = '') {
      // Page by page, so that a slow consumer, or one that writes as it goes, holds up nothing.
      let from = root + prefix
      const to = root + prefix + LAST
      for (let after = false; ; after = true) {
        const page = await track(() => index.entries({ from, after, to, limit: PAGE }))
        for (const [key, value] of page) yield [key.slice(root.length), JSON.parse(value) as T]
        if (page.length < PAGE) return
        from = page[page.length - 1]?.[0] ?? to
      }
    },
  }
}
