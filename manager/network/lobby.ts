import { ShoalError } from '../../base/index.ts'

export interface LobbySeat {
  /** Aborts when the seat is taken away. */
  signal: AbortSignal
  leave(): void
}

/**
 * Where connections wait until they have proved themselves. When all seats are taken, the newcomer gets the seat of the one
 * that has waited longest among those of the host with most seats: a flood evicts itself, while a member, who proves itself
 * within a round trip, hardly ever waits long enough to be the oldest.
 */
export function createLobby(options: { capacity: number }): {
  enter(host: string): LobbySeat
  size(): number
} {
  const { capacity } = options
  const hosts = new Map<string, Set<AbortController>>()
  let taken = 0

  const vacate = (host: string, seat: AbortController): void => {
    const seats = hosts.get(host)
    if (seats?.delete(seat) !== true) return
    taken--
    if (seats.size === 0) hosts.delete(host)
  }

  const evict = (): void => {
    let busiest: [string, Set<AbortController>] | undefined
    for (const entry of hosts) if (busiest === undefined || entry[1].size > busiest[1].size) busiest = entry
    // Sets keep the order of insertion: the first is the oldest.
    const oldest = busiest?.[1].values().next().value
    if (busiest === undefined || oldest === undefined) return
    vacate(busiest[0], oldest)
    oldest.abort(new ShoalError('DENIED', 'too many connections wait for admission'))
  }

  return {
    size: () => taken,
    enter(host) {
      if (taken >= capacity) evict()
      const seat = new AbortController()
      const seats = hosts.get(host) ?? new Set()
      hosts.set(host, seats.add(seat))
      taken++
      return { signal: seat.signal, leave: () => vacate(host, seat) }
    },
  }
}
