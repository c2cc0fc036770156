import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { processesOf } from './proc.ts'
import { run, until } from './sh.ts'
import { type LabName, listLabs } from './state.ts'

/** Ends and removes everything of a lab, by its name alone; each step goes on where an earlier one was cut short. */
export async function sweep(lab: LabName): Promise<void> {
  const spaces = netnsOf(lab)
  const inodes = new Set(spaces.map((ns) => `net:[${statSync(`/run/netns/${ns}`).ino}]`))
  await endProcesses(inodes, lab.name)
  removeShimSockets(lab.dir)
  for (const point of mountsBelow(lab.dir)) await run(['umount', '-l', point], { mayFail: true })
  removeCgroups(lab.name)
  for (const ns of spaces) await run(['ip', 'netns', 'del', ns], { mayFail: true })
  rmSync(lab.dir, { recursive: true, force: true, maxRetries: 5 })
}

/** Sweeps the labs whose owners are gone. Returns their names. */
export async function sweepStale(): Promise<string[]> {
  const stale = listLabs().filter((lab) => !lab.live)
  for (const lab of stale) await sweep(lab)
  return stale.map((lab) => lab.name)
}

function netnsOf(lab: LabName): string[] {
  if (!existsSync('/run/netns')) return []
  return readdirSync('/run/netns').filter((ns) => ns.startsWith(`${lab.name}-`))
}

async function endProcesses(inodes: Set<string>, cgroup: string): Promise<void> {
  await until('the processes of a lab end', () => {
    const left = processesOf(inodes, cgroup).filter((pid) => pid !== process.pid)
    for (const pid of left) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {} // It ended by itself.
    }
    return left.length === 0
  })
}

/** A killed shim leaves its socket below /run/containerd/s; the file `address` in its bundle names it. */
function removeShimSockets(dir: string): void {
  for (const file of findFiles(dir, 'address', 7)) {
    const path = readFileSync(file, 'utf8')
      .trim()
      .replace(/^unix:\/\//, '')
    if (/^\/run\/containerd\/s\/[0-9a-f]{64}$/.test(path) && existsSync(path)) unlinkSync(path)
  }
}

function findFiles(dir: string, name: string, depth: number): string[] {
  let entries: import('node:fs').Dirent[]
  try {
    entries = readdirSync(dir, { withFileTypes: true })
  } catch {
    return []
  }
  return entries.flatMap((entry) => {
    if (entry.isFile()) return entry.name === name ? [join(dir, name)] : []
    // Images' contents are none of our business, and large.
    const skip =
      !entry.isDirectory() || depth === 0 || /rootfs|snapshot|overlay|blobs|merged/.test(entry.name)
    return skip ? [] : findFiles(join(dir, entry.name), name, depth - 1)
  })
}

function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => point.startsWith(`${dir}/`))
    .reverse()
}

/** Runtimes make a lab's cgroup below the root or below the cgroup that they were started in: it is searched for. */
function removeCgroups(name: string, below = '/sys/fs/cgroup', depth = 5): void {
  for (const group of subgroups(below)) {
    if (group.endsWith(`/${name}`)) removeGroup(group)
    else if (depth > 0) removeCgroups(name, group, depth - 1)
  }
}

function removeGroup(group: string): void {
  for (const sub of subgroups(group)) removeGroup(sub)
  try {
    rmdirSync(group)
  } catch {} // Still busy: an empty group hurts nobody.
}

function subgroups(group: string): string[] {
  try {
    const entries = readdirSync(group, { withFileTypes: true })
    return entries.filter((entry) => entry.isDirectory()).map((entry) => join(group, entry.name))
  } catch {
    return []
  }
}
