/** Simulated time and what is to happen in it. Events of the same instant happen in the order in which they were set. */
export interface Clock {
  /** Milliseconds since the start. */
  readonly now: number
  readonly events: number
  at(time: number, run: () => void): void
  after(ms: number, run: () => void): void
  /** Runs events until `done` says so, nothing is left, or the time is past `limit`. */
  run(done: () => boolean, limit: number): void
}

/** A binary heap in parallel arrays: millions of events, no objects but the closures. */
export function createClock(): Clock {
  let times = new Float64Array(1024)
  let orders = new Float64Array(1024)
  const runs: (() => void)[] = []
  let size = 0
  let serial = 0
  let now = 0
  let events = 0

  function before(a: number, b: number): boolean {
    return times[a]! < times[b]! || (times[a] === times[b] && orders[a]! < orders[b]!)
  }

  function move(from: number, to: number): void {
    times[to] = times[from]!
    orders[to] = orders[from]!
    runs[to] = runs[from]!
  }

  function push(time: number, run: () => void): void {
    if (size + 1 >= times.length) {
      times = grown(times)
      orders = grown(orders)
    }
    const order = serial++
    let at = size++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (times[parent]! <= time) break
      move(parent, at)
      at = parent
    }
    times[at] = time
    orders[at] = order
    runs[at] = run
  }

  function pop(): () => void {
    const top = runs[0]!
    size--
    const time = times[size]!
    const order = orders[size]!
    const run = runs[size]!
    runs.length = size
    if (size > 0) {
      times[size] = Number.POSITIVE_INFINITY
      let at = 0
      for (;;) {
        let child = 2 * at + 1
        if (child >= size) break
        if (child + 1 < size && before(child + 1, child)) child++
        if (times[child]! > time || (times[child] === time && orders[child]! > order)) break
        move(child, at)
        at = child
      }
      times[at] = time
      orders[at] = order
      runs[at] = run
    }
    return top
  }

  return {
    get now() {
      return now
    },
    get events() {
      return events
    },
    at: (time, run) => push(Math.max(time, now), run),
    after: (ms, run) => push(now + ms, run),
    run(done, limit) {
      while (size > 0 && !done()) {
        if (times[0]! > limit) return
        now = times[0]!
        events++
        pop()()
      }
    },
  }
}

function grown(old: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(old.length * 2)
  larger.set(old)
  return larger
}

/** Numbers in [0, 1) from a 32-bit seed: the generator "mulberry32" by Tommy Ettinger, public domain. */
export function seeded(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
