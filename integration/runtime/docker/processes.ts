import { readFile } from 'node:fs/promises'
import { cgroupPlaces, processesIn } from '../cgroup.ts'

/**
 * SIGKILL to every process in the cgroup of a container's first one: docker would signal only that one and then thaw all. What is frozen
 * dies of it when it is thawed, before it runs on.
 */
export async function killAll(pid: number): Promise<void> {
  for (const one of new Set([...(await inCgroup(pid)), pid])) {
    try {
      process.kill(one, 'SIGKILL')
    } catch {
      // Gone.
    }
  }
}

async function inCgroup(pid: number): Promise<number[]> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')).trim().split('\n')
  for (const controller of ['freezer', 'pids', '']) {
    const line = lines.find((each) => each.split(':')[1]?.split(',').includes(controller))
    const path = line?.split(':').slice(2).join(':')
    // In the root cgroup are the processes of the whole machine.
    if (!path || path === '/') continue
    for (const place of await cgroupPlaces(path)) {
      const found = await processesIn(place)
      if (found.includes(pid)) return found
    }
  }
  return []
}
