import { readdir, readFile } from 'node:fs/promises'
import { basename } from 'node:path'

/** The arguments of each running process of that program. What cannot be read does not count. */
export async function argumentsOf(program: string): Promise<string[][]> {
  const found: string[][] = []
  for (const pid of await readdir('/proc').catch(() => [])) {
    if (!/^\d+$/.test(pid)) continue
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    const args = line.split('\0')
    if (basename(args[0] ?? '') === program) found.push(args.slice(1))
  }
  return found
}
