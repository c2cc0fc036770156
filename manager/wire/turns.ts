import type { Priority } from '../types.ts'

/** A queue in which what a client waits for goes before preheating, and else the order is kept. */
export interface Turns<T> {
  push(priority: Priority, item: T): void
  shift(): T | undefined
  /** Takes out the first item that matches. */
  remove(match: (item: T) => boolean): void
  clear(): void
  readonly size: number
}

export function createTurns<T>(): Turns<T> {
  const queues: Record<Priority, T[]> = { client: [], preheat: [] }
  return {
    push(priority, item) {
      queues[priority].push(item)
    },
    shift: () => queues.client.shift() ?? queues.preheat.shift(),
    remove(match) {
      for (const queue of [queues.client, queues.preheat]) {
        const at = queue.findIndex(match)
        if (at < 0) continue
        queue.splice(at, 1)
        return
      }
    },
    clear() {
      queues.client = []
      queues.preheat = []
    },
    get size() {
      return queues.client.length + queues.preheat.length
    },
  }
}

/** At most `most` at the same time of each key; the others wait their turn. */
export interface Gate {
  /** Calls `go` now or when one that is in leaves. */
  enter(key: string, priority: Priority, go: () => void): void
  /** Leaves, or gives up waiting. Every `enter` needs exactly one. */
  leave(key: string, go: () => void): void
}

export function createGate(most: number): Gate {
  const rooms = new Map<string, { inside: Set<() => void>; waiting: Turns<() => void> }>()
  return {
    enter(key, priority, go) {
      let room = rooms.get(key)
      if (!room) {
        room = { inside: new Set(), waiting: createTurns() }
        rooms.set(key, room)
      }
      if (room.inside.size >= most) {
        room.waiting.push(priority, go)
        return
      }
      room.inside.add(go)
      go()
    },
    leave(key, go) {
      const room = rooms.get(key)
      if (!room) return
      if (!room.inside.delete(go)) {
        room.waiting.remove((item) => item === go)
        return
      }
      const next = room.waiting.shift()
      if (next) {
        room.inside.add(next)
        next()
      } else if (room.inside.size === 0) {
        rooms.delete(key)
      }
    },
  }
}
