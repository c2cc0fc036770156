import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** What /proc says about a container's processes; what ends while it is read is left out. */
export interface OpenFile {
  pid: number
  /** Where the descriptor points: a path, `socket:[INODE]`, `anon_inode:[NAME]`. */
  target: string
  /** Bytes of it where it was deleted while open. */
  deletedBytes: number | undefined
}

/**
 * All processes of a container, from its first one: its descendants, and whoever shares its PID namespace (what was `exec`ed into it
 * has another parent). @param proc /proc; another directory in tests
 */
export async function processesOf(pid: number, proc = '/proc'): Promise<number[]> {
  const own = await link(join(proc, String(pid), 'ns/pid'))
  const daemon = await link(join(proc, 'self/ns/pid'))
  const parents = new Map<number, number>()
  const found = new Set([pid])
  const all = (await readdir(proc)).filter((name) => /^\d+$/.test(name)).map(Number)
  await Promise.all(
    all.map(async (one) => {
      const text = await readFile(join(proc, String(one), 'stat'), 'latin1').catch(() => '')
      // The name in brackets may hold anything.
      parents.set(
        one,
        Number(
          text
            .slice(text.lastIndexOf(')') + 1)
            .trim()
            .split(' ')[1],
        ),
      )
      // A container in the host's PID namespace shares it with everybody.
      if (own === undefined || own === daemon) return
      if ((await link(join(proc, String(one), 'ns/pid'))) === own) found.add(one)
    }),
  )
  const isInside = (one: number): boolean => {
    const seen = new Set<number>()
    for (let at: number | undefined = one; at !== undefined && !seen.has(at); at = parents.get(at)) {
      if (found.has(at)) return true
      seen.add(at)
    }
    return false
  }
  return all.filter(isInside).sort((a, b) => a - b)
}

export async function openFiles(pid: number, proc = '/proc'): Promise<OpenFile[]> {
  const dir = join(proc, String(pid), 'fd')
  const names = await readdir(dir).catch(() => [])
  const files = await Promise.all(
    names.map(async (name): Promise<OpenFile | undefined> => {
      const path = join(dir, name)
      const target = await link(path)
      if (target === undefined) return undefined
      const deleted = target.startsWith('/') && target.endsWith(' (deleted)')
      const size = deleted
        ? await stat(path).then(
            (found) => found.size,
            () => undefined,
          )
        : undefined
      return { pid, target, deletedBytes: size }
    }),
  )
  return files.filter((file) => file !== undefined)
}

/** TCP sockets of the process's network namespace that are neither closed nor listening, by inode: `ADDRESS:PORT` in hexadecimal. */
export async function openTcp(pid: number, proc = '/proc'): Promise<Map<string, string>> {
  const open = new Map<string, string>()
  for (const table of ['tcp', 'tcp6']) {
    const text = await readFile(join(proc, String(pid), 'net', table), 'latin1').catch(() => '')
    for (const line of text.split('\n').slice(1)) {
      const columns = line.trim().split(/\s+/)
      const [, , remote = '', state] = columns
      const inode = columns[9]
      // 07: closed, 0A: listening.
      if (inode === undefined || inode === '0' || state === '07' || state === '0A') continue
      open.set(inode, remote)
    }
  }
  return open
}

/** Whether a debugger is attached. */
export async function isTraced(pid: number, proc = '/proc'): Promise<boolean> {
  const text = await readFile(join(proc, String(pid), 'status'), 'latin1').catch(() => '')
  return Number(/^TracerPid:\s*(\d+)/m.exec(text)?.[1] ?? 0) !== 0
}

export async function commandOf(pid: number, proc = '/proc'): Promise<string> {
  return (await readFile(join(proc, String(pid), 'comm'), 'utf8').catch(() => '')).trim() || 'a process'
}

function link(path: string): Promise<string | undefined> {
  return readlink(path).catch(() => undefined)
}
