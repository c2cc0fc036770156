import { readFileSync } from 'node:fs'

/** Ticks of all cores since the machine started. */
interface Ticks {
  /** Wanted: worked, or runnable while the host ran somebody else. */
  wanted: number
  stolen: number
}

/** From the first line of /proc/stat: user nice system idle iowait irq softirq steal (proc(5)). */
function parseTicks(stat: string): Ticks {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, stolen = 0] = stat
    .split('\n', 1)[0]!
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return { wanted: user + nice + system + irq + softirq + stolen, stolen }
}

/**
 * Starts to watch how much of the CPU time that this machine wanted its host gave to others, as happens to virtual machines: timings of work that needs
 * all cores grow by it, and baselines that do not, do not.
 *
 * @returns the share since then, 0 to 1
 */
export function watchStolen(): () => number {
  const read = (): Ticks => parseTicks(readFileSync('/proc/stat', 'utf8'))
  const before = read()
  return () => {
    const now = read()
    const wanted = now.wanted - before.wanted
    return wanted > 0 ? (now.stolen - before.stolen) / wanted : 0
  }
}
