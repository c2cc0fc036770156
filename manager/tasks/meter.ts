/** Bytes a second over the last two seconds of activity; what a seeder tells the coordinator of its uplink. */
export interface Meter {
  add(bytes: number): void
  /** 0 while nothing was measured. The last value is kept through pauses. */
  rate(): number
}

const WINDOW_MS = 2000
const PAUSE_MS = 500

export function createMeter(now: () => number = () => performance.now()): Meter {
  let samples: { at: number; bytes: number }[] = []
  let total = 0
  let last = 0

  return {
    add(bytes) {
      const at = now()
      const newest = samples.at(-1)
      if (newest && at - newest.at > PAUSE_MS) {
        samples = []
        total = 0
      }
      if (newest && samples.length > 0 && at - newest.at < 20) newest.bytes += bytes
      else samples.push({ at, bytes })
      total += bytes
      while (samples[0] && at - samples[0].at > WINDOW_MS) total -= samples.shift()?.bytes ?? 0
    },
    rate() {
      const first = samples[0]
      const newest = samples.at(-1)
      // The first sample's bytes came before its time stamp, so they do not count.
      if (first && newest && newest.at - first.at >= 100) {
        last = ((total - first.bytes) * 1000) / (newest.at - first.at)
      }
      return last
    },
  }
}
