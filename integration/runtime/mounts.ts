import { readFile } from 'node:fs/promises'
import { run } from './run.ts'

export interface MountEntry {
  path: string
  type: string
  options: ReadonlyMap<string, string>
}

/** The mounts that this process sees, the last ones first: the topmost at a path is the first of it. */
export async function listMounts(): Promise<MountEntry[]> {
  return parseMounts(await readFile('/proc/self/mountinfo', 'latin1'))
}

/** @param mountinfo the text of /proc/self/mountinfo, a character a byte */
export function parseMounts(mountinfo: string): MountEntry[] {
  return mountinfo
    .trim()
    .split('\n')
    .reverse()
    .map((line) => {
      const [before = '', after = ''] = line.split(' - ')
      const [type = '', , options = ''] = after.split(' ')
      const pairs = options.split(',').map((option): [string, string] => {
        const at = option.indexOf('=')
        return at < 0 ? [option, ''] : [option.slice(0, at), unescaped(option.slice(at + 1))]
      })
      return { path: unescaped(before.split(' ')[4] ?? ''), type, options: new Map(pairs) }
    })
}

/**
 * Unmounts all that is mounted at or below a directory. To be called before one is removed that another program may have mounted
 * something in and then been killed: what is mounted there would be removed with it.
 */
export async function unmountBelow(dir: string, signal: AbortSignal): Promise<void> {
  for (const { path } of await listMounts())
    if (path === dir || path.startsWith(`${dir}/`))
      await run('umount', ['--lazy', path], { signal, ok: [0, 32] })
}

function unescaped(text: string): string {
  const bytes = text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )
  return Buffer.from(bytes, 'latin1').toString('utf8')
}
