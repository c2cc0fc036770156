import { ShoalError } from '../../base/index.ts'

/** How long an origin that could not be reached is not asked again. */
const COOL_MS = 2000

/** Leave to ask an origin, given by `enter`. Exactly one of the two is called, when it is known how that went. */
export interface Pass {
  /** This one finds out whether the origin is back: it should not try more than once. */
  probe: boolean
  reached(): void
  /** `unreachable` false: given up for reasons that say nothing of the origin. */
  failed(unreachable: boolean): void
}

/** Per origin, what became of the last attempts to reach it: so that a cut uplink is said at once, not after a time-out each. */
export interface Circuits {
  /** @throws UPSTREAM_UNREACHABLE while the origin cools down or is being probed */
  enter(origin: string): Pass
  /** Attempts to reach the origin were in vain: nobody asks for a while, then one probe goes first. */
  open(origin: string, reason: string): void
  /** Called with the origin whenever one was found out of reach. */
  onOpen(listener: (origin: string) => void): void
}

export function createCircuits(now: () => number = () => performance.now()): Circuits {
  const listeners: ((origin: string) => void)[] = []
  const broken = new Map<string, { until: number; reason: string; probing: boolean }>()

  function open(origin: string, reason: string): void {
    broken.set(origin, { until: now() + COOL_MS, reason, probing: false })
    for (const listener of listeners) listener(origin)
  }

  function enter(origin: string): Pass {
    const state = broken.get(origin)
    if (!state) {
      return { probe: false, reached: () => void broken.delete(origin), failed: () => {} }
    }
    if (state.probing || state.until > now()) {
      throw new ShoalError(
        'UPSTREAM_UNREACHABLE',
        `${origin} could not be reached just now: ${state.reason}`,
        {
          details: {
            upstream: origin,
            reason: 'circuit',
            retryMs: Math.max(0, Math.ceil(state.until - now())),
          },
        },
      )
    }
    state.probing = true
    return {
      probe: true,
      reached: () => void broken.delete(origin),
      failed(unreachable) {
        if (unreachable) open(origin, state.reason)
        else state.probing = false
      },
    }
  }

  return { enter, open, onOpen: (listener) => void listeners.push(listener) }
}
