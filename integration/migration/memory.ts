import { readdir, readFile } from 'node:fs/promises'

/** Resident bytes of a process and all that came from it; what ends meanwhile counts nothing. */
export async function memoryOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '')
  let bytes = Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024
  const threads = await readdir(`/proc/${pid}/task`).catch(() => [])
  for (const thread of threads) {
    const children = await readFile(`/proc/${pid}/task/${thread}/children`, 'latin1').catch(() => '')
    for (const child of children.split(' ').filter(Boolean)) bytes += await memoryOf(Number(child))
  }
  return bytes
}
