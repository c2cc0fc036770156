import type { Hints } from '../../manager/types.ts'

/** What is not known by then, neighbours do not know. */
const PATIENCE_MS = 1000

/** The newest value that neighbours hold for a key; undefined when there is none, in time or at all. Never throws. */
export async function lookUp(hints: Hints, key: string, signal: AbortSignal): Promise<unknown> {
  const patience = AbortSignal.timeout(PATIENCE_MS)
  const late = new Promise<undefined>((resolve) => {
    patience.addEventListener('abort', () => resolve(undefined), { once: true })
  })
  const answer = hints
    .lookup(key, AbortSignal.any([signal, patience]))
    .then((values) => values[0]?.value)
    .catch(() => undefined)
  return Promise.race([answer, late])
}
