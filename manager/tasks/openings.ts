import type { Priority } from '../../scheduler/index.ts'
import type { Origin } from '../types.ts'

/** Who waits for a task's blob, and with whose rights it may be fetched. */
export interface Openings {
  readonly label: string
  readonly priority: Priority
  /** The newest origin that upstream has not refused; undefined when there is none. */
  origin(): Origin | undefined
  /** Upstream refused the rights that the origin stands for. */
  refused(origin: Origin, error: unknown): void
  /** Upstream's last refusal. */
  readonly refusal: unknown
  /** Returns the function that ends the opening. */
  add(opening: { origin: Origin; priority: Priority }): () => void
  stop(): void
}

/** @param graceMs how long after the last opening `onIdle` is called, asked anew each time */
export function createOpenings(deps: { graceMs: () => number; onIdle: () => void }): Openings {
  const open = new Set<{ origin: Origin; priority: Priority }>()
  const refusals = new Map<Origin, unknown>()
  let grace: NodeJS.Timeout | undefined
  let label = ''

  return {
    get label() {
      return label
    },
    get priority() {
      return [...open].some((opening) => opening.priority === 'client') ? 'client' : 'preheat'
    },
    origin: () => [...open].map((opening) => opening.origin).findLast((origin) => !refusals.has(origin)),
    refused: (origin, error) => void refusals.set(origin, error),
    get refusal() {
      return [...refusals.values()].at(-1)
    },
    add(opening) {
      clearTimeout(grace)
      open.add(opening)
      label = opening.origin.label
      return () => {
        if (!open.delete(opening) || open.size > 0) return
        grace = setTimeout(deps.onIdle, deps.graceMs())
      }
    },
    stop: () => clearTimeout(grace),
  }
}
