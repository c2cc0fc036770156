import type { PeerId } from '../types.ts'

/** Records that are one node's own: its peer ID is a part of the key, and they go when it was not met for 30 days. */
const OWN = ['offer/', 'wanted/', 'storing/']

/** The keys of what belongs to the nodes. */
export function ownOf(keys: Iterable<string>, nodes: readonly PeerId[]): string[] {
  if (nodes.length === 0) return []
  const gone = new Set(nodes)
  return [...keys].filter(
    (key) => OWN.some((prefix) => key.startsWith(prefix)) && key.split('/').some((part) => gone.has(part)),
  )
}
