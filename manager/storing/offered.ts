import type { Catalog } from './catalog.ts'
import type { Layout } from './layout.ts'

/** So long a node that just came is waited for to say what space it offers. */
const OFFER_MS = 5000
const POLL_MS = 100

/**
 * Resolves when every node that is there has said what space it offers, or does not say it in time: who decides with some
 * of the offers only would see fewer nodes than there are.
 * @throws what the signal was aborted with
 */
export async function offered(deps: {
  layout: Pick<Layout, 'live'>
  catalog: Pick<Catalog, 'offers'>
  signal: AbortSignal
}): Promise<void> {
  const { layout, catalog, signal } = deps
  for (const end = performance.now() + OFFER_MS; performance.now() < end; ) {
    signal.throwIfAborted()
    const offers = catalog.offers()
    if (layout.live().every((peer) => offers.has(peer))) return
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
}
