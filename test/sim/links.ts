import type { Clock } from './clock.ts'

/** Bytes on their way over a link. */
export interface Job {
  readonly bytes: number
  readonly done: () => void
  /** Called when the first byte goes out, and while more follow, with the bytes that went so far. */
  readonly moving?: (sent: number) => void
  /** Virtual time at which a fair link has sent it. */
  tag: number
  state: 'waiting' | 'sending' | 'sent' | 'cancelled'
}

export interface Link {
  send(job: Job): void
  /** A message on a connection of its own: not behind the blocks that wait. */
  urgent(job: Job): void
  cancel(job: Job): void
  /** Bytes that were sent, those of jobs cancelled on the way included. */
  readonly sent: number
  /** What waits is lost: the node died. */
  close(): void
}

export function job(bytes: number, done: () => void, moving?: (sent: number) => void): Job {
  return { bytes, done, ...(moving === undefined ? {} : { moving }), tag: 0, state: 'waiting' }
}

/** Sends one job after the other. `rate` in bytes a millisecond. */
export function createFifo(clock: Clock, rate: number): Link {
  let queue: Job[] = []
  let head = 0
  let current: Job | undefined
  let sent = 0
  let closed = false

  function next(): void {
    while (head < queue.length && queue[head]!.state === 'cancelled') head++
    current = queue[head]
    if (current !== undefined) head++
    if (head > 1024 && head * 2 > queue.length) {
      queue = queue.slice(head)
      head = 0
    }
    if (current === undefined) return
    const own = current
    own.state = 'sending'
    own.moving?.(1)
    clock.after(own.bytes / rate, () => {
      if (closed) return
      sent += own.bytes
      const cancelled = own.state === 'cancelled'
      own.state = 'sent'
      next()
      if (!cancelled) own.done()
    })
  }

  return {
    send(added) {
      if (closed) return
      queue.push(added)
      if (current === undefined) next()
    },
    urgent(added) {
      if (closed) return
      if (current === undefined) {
        queue.push(added)
        next()
      } else if (head > 0) queue[--head] = added
      else queue.unshift(added)
    },
    cancel(gone) {
      if (gone.state !== 'sent') gone.state = 'cancelled'
    },
    get sent() {
      return sent
    },
    close() {
      closed = true
      queue = []
    },
  }
}

const MOVING_MS = 100

/**
 * Shares the rate equally among all jobs under way, as TCP connections do on one link: processor sharing by virtual time
 * (A. Demers, S. Keshav and S. Shenker, "Analysis and Simulation of a Fair Queueing Algorithm", SIGCOMM 1989).
 */
export function createFair(clock: Clock, rate: number): Link {
  /** Jobs under way as a heap by tag. */
  const heap: Job[] = []
  let active = 0
  let virtual = 0
  let updatedAt = 0
  let sent = 0
  let turn = 0
  let closed = false

  function update(): void {
    if (active > 0) {
      const ms = clock.now - updatedAt
      virtual += (ms * rate) / active
      sent += ms * rate
    }
    updatedAt = clock.now
  }

  function schedule(): void {
    const mine = ++turn
    while (heap.length > 0 && heap[0]!.state === 'cancelled') popJob(heap)
    const first = heap[0]
    if (first === undefined) return
    clock.after(Math.max(0, ((first.tag - virtual) * active) / rate), () => {
      if (mine !== turn || closed) return
      update()
      const finished: Job[] = []
      while (heap.length > 0 && (heap[0]!.state === 'cancelled' || heap[0]!.tag <= virtual + 0.5)) {
        const done = popJob(heap)
        if (done.state === 'cancelled') continue
        done.state = 'sent'
        active--
        finished.push(done)
      }
      schedule()
      for (const each of finished) each.done()
    })
  }

  function tell(moving: Job): void {
    clock.after(MOVING_MS, () => {
      if (moving.state !== 'sending' || closed) return
      update()
      moving.moving?.(moving.bytes - Math.max(0, moving.tag - virtual))
      tell(moving)
    })
  }

  function send(added: Job): void {
    if (closed) return
    update()
    added.tag = virtual + added.bytes
    added.state = 'sending'
    active++
    pushJob(heap, added)
    schedule()
    if (added.moving !== undefined) tell(added)
  }

  return {
    send,
    urgent: send,
    cancel(gone) {
      if (gone.state !== 'sending') return
      update()
      gone.state = 'cancelled'
      active--
      schedule()
    },
    get sent() {
      update()
      return sent
    },
    close() {
      closed = true
      heap.length = 0
      active = 0
    },
  }
}

function pushJob(heap: Job[], added: Job): void {
  let at = heap.length
  heap.push(added)
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (heap[parent]!.tag <= added.tag) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = added
}

function popJob(heap: Job[]): Job {
  const top = heap[0]!
  const last = heap.pop()!
  if (heap.length === 0) return top
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && heap[child + 1]!.tag < heap[child]!.tag) child++
    if (heap[child]!.tag >= last.tag) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
  return top
}
