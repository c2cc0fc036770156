import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'

/** Fields of /proc/PID/stat after the command's name (which may contain anything); [0] is the state. */
function stat(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

/** When a process was started, in clock ticks since boot: with the pid it names the process. 0 if there is none. */
export function startOf(pid: number): number {
  const fields = stat(pid)
  // A zombie has ended; its parent has only not asked yet.
  return fields === undefined || fields[0] === 'Z' ? 0 : Number(fields[19])
}

/** CPU time that a process has used so far, in ms (at the usual 100 ticks a second). */
export function cpuMs(pid: number): number {
  const fields = stat(pid)
  return fields === undefined ? 0 : (Number(fields[11]) + Number(fields[12])) * 10
}

function statusBytes(pid: number, field: string): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  const match = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)
  return Number(match?.[1] ?? 0) * 1024
}

/** Highest resident memory so far, in bytes. */
export function peakRss(pid: number): number {
  return statusBytes(pid, 'VmHWM')
}

export function rss(pid: number): number {
  return statusBytes(pid, 'VmRSS')
}

/** Makes the present resident memory the peak. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

function pids(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 1)
}

/** Processes whose network namespace is one of `inodes`, or whose cgroup's path has `cgroup` in it. */
export function processesOf(inodes: Set<string>, cgroup: string): number[] {
  return pids().filter((pid) => {
    try {
      if (inodes.has(readlinkSync(`/proc/${pid}/ns/net`))) return true
      return readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(`/${cgroup}`)
    } catch {
      return false
    }
  })
}
