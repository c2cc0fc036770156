import type { PeerId } from './types.ts'

/** A block that was asked of a peer and is not here yet. Times in ms. */
export interface Flight {
  readonly index: number
  readonly peer: PeerId
  readonly bytes: number
  readonly startedAt: number
  readonly expectedMs: number
  readonly hedge: boolean
  /** When bytes of it last came; `startedAt` before the first. */
  movedAt: number
  /** Bytes of it that came so far. */
  received: number
  /** Not looked at before this: nobody else could send it when it was late. */
  notBefore: number
}

export interface Flights {
  readonly size: number
  of(index: number): readonly Flight[]
  find(index: number, peer: PeerId): Flight | undefined
  all(): Flight[]
  add(flight: Flight): void
  remove(flight: Flight): void
}

/** The flights of one task by block; `asked` hears when a block gets its first flight or loses its last. */
export function createFlights(asked: (index: number, value: boolean) => void): Flights {
  const byIndex = new Map<number, Flight[]>()
  const none: readonly Flight[] = []

  return {
    get size() {
      return byIndex.size
    },
    of: (index) => byIndex.get(index) ?? none,
    find: (index, peer) => byIndex.get(index)?.find((flight) => flight.peer === peer),
    all: () => [...byIndex.values()].flat(),
    add(flight) {
      const list = byIndex.get(flight.index)
      if (list !== undefined) list.push(flight)
      else {
        byIndex.set(flight.index, [flight])
        asked(flight.index, true)
      }
    },
    remove(flight) {
      const list = byIndex.get(flight.index)
      const at = list?.indexOf(flight) ?? -1
      if (list === undefined || at < 0) return
      list.splice(at, 1)
      if (list.length > 0) return
      byIndex.delete(flight.index)
      asked(flight.index, false)
    },
  }
}
