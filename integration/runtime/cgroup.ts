import { readdir, readFile, rmdir } from 'node:fs/promises'
import { join } from 'node:path'

const ROOT = '/sys/fs/cgroup'

/** Where a cgroup of that path may be: in the one hierarchy of version 2, or in each of version 1. */
export async function cgroupPlaces(path: string): Promise<string[]> {
  const entries = await readdir(ROOT, { withFileTypes: true }).catch(() => [])
  const hierarchies = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  return [join(ROOT, path), ...hierarchies.map((name) => join(ROOT, name, path))]
}

/** The processes in a cgroup and those below it; none where it is not there. */
export async function processesIn(dir: string): Promise<number[]> {
  const text = await readFile(join(dir, 'cgroup.procs'), 'utf8').catch(() => '')
  const pids = text.split('\n').filter(Boolean).map(Number)
  for (const child of await childrenOf(dir)) pids.push(...(await processesIn(child)))
  return pids
}

/** Removes a cgroup that has no processes, and those below it. What is in use stays. */
export async function removeCgroup(dir: string): Promise<void> {
  for (const child of await childrenOf(dir)) await removeCgroup(child)
  await rmdir(dir).catch(() => {})
}

async function childrenOf(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => [])
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(dir, name))
}
