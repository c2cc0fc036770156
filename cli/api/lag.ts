import { monitorEventLoopDelay } from 'node:perf_hooks'

const RESOLUTION_MS = 20

/** How late the event loop was lately, in ms. */
export interface Lag {
  p50: number
  p99: number
  max: number
}

export interface LagMeter {
  /** Of the last whole minute or more; two windows overlap so that a reading is never of an empty one. */
  read(): Lag
  close(): void
}

/** Watches the event loop's delay. The timer runs in native code: no JavaScript wakes up for it. */
export function createLagMeter(windowMs = 60e3): LagMeter {
  const windows = [0, 1].map(() => monitorEventLoopDelay({ resolution: RESOLUTION_MS }))
  for (const histogram of windows) histogram.enable()
  let older = 0
  const turn = setInterval(() => {
    windows[older]?.reset()
    older = 1 - older
  }, windowMs)
  turn.unref()

  return {
    read: () => {
      const histogram = windows[older]
      // The histogram holds whole intervals in nanoseconds; what exceeds the timer's own interval is lag.
      const late = (ns: number | undefined): number =>
        Math.max(0, Math.round(((ns ?? 0) / 1e6 - RESOLUTION_MS) * 10) / 10)
      if (!histogram || histogram.count === 0) return { p50: 0, p99: 0, max: 0 }
      return {
        p50: late(histogram.percentile(50)),
        p99: late(histogram.percentile(99)),
        max: late(histogram.max),
      }
    },
    close: () => {
      clearInterval(turn)
      for (const histogram of windows) histogram.disable()
    },
  }
}
