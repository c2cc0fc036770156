import type { Manager } from '../../manager/types.ts'
import type { Upstream } from '../types.ts'

/** Neighbours that are told; of a large site, each that finds out for itself tells as many more. */
const TOLD = 16
/** An origin is told of so often at most. */
const EVERY_MS = 5000
const MAX_ORIGIN = 300

/**
 * Nodes of a site have one uplink: who finds an upstream out of reach tells neighbours, so that they do not wait as long to find out the same.
 * It is only a hint: they ask upstream all the same.
 */
export function shareOutages(parts: {
  manager: Pick<Manager, 'members' | 'rpc' | 'self'>
  upstream: Pick<Upstream, 'doubt' | 'onUnreachable'>
  random?: () => number
  now?: () => number
}): void {
  const { manager, upstream, random = Math.random, now = () => performance.now() } = parts
  const { members, rpc, self } = manager
  const knownAt = new Map<string, number>()

  function isNews(origin: string): boolean {
    for (const [known, at] of knownAt) if (now() - at >= EVERY_MS) knownAt.delete(known)
    if (knownAt.has(origin)) return false
    knownAt.set(origin, now())
    return true
  }

  upstream.onUnreachable?.((origin) => {
    if (!isNews(origin)) return
    const others = members
      .site()
      .filter(({ id }) => id !== self.id)
      .map(({ id }) => ({ id, order: random() }))
      .sort((a, b) => a.order - b.order)
    for (const { id } of others.slice(0, TOLD)) rpc.notify(id, 'upstream.out', { origin })
  })

  rpc.handle('upstream.out', async (_peer, body) => {
    const { origin } = (body ?? {}) as { origin?: unknown }
    if (typeof origin === 'string' && origin.length <= MAX_ORIGIN) upstream.doubt?.(origin)
    return undefined
  })
}
