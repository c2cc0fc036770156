import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Lab } from '../lab/index.ts'

/**
 * Looks every few ms at all containers of a lab and proves that of each workload at most one copy runs at any time. Copies of one are told by
 * the name of their cgroup, which is the container's. One that is frozen, stopped by who dumps or restores it, or dead does not run.
 */
export interface Observer {
  /** Samples taken, and moments at which two copies ran. */
  seen(): Promise<{ samples: number; doubles: string[] }>
  stop(): Promise<void>
}

const FILE = fileURLToPath(import.meta.url)
const EVERY_MS = 5
/** One is one too many; more say no more. */
const MOST = 20
/** PF_EXITING in the flags of /proc/PID/stat; SIGKILL in a set of pending signals. */
const EXITING = 4
const KILLED = 1 << 8

export async function startObserver(lab: Lab): Promise<Observer> {
  const child: ChildProcess = spawn(process.execPath, [FILE, lab.name], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  return {
    async seen() {
      child.stdin?.write('\n')
      const [line] = (await once(child.stdout!, 'data')) as [Buffer]
      return JSON.parse(String(line))
    },
    async stop() {
      child.kill('SIGKILL')
      await ended
    },
  }
}

interface Copy {
  pid: number
  group: string
  work: string
}

/** Cgroups of the lab's containers, in the hierarchy that can freeze them. */
function groupsOf(name: string): string[] {
  const roots = ['/sys/fs/cgroup/freezer', '/sys/fs/cgroup']
  const root = roots.map((each) => join(each, name)).find(existsSync)
  if (root === undefined) return []
  return readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(root, entry.name))
}

function text(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

const isFrozen = (group: string): boolean =>
  text(join(group, 'freezer.state')).startsWith('FROZEN') || / 1/.test(text(join(group, 'cgroup.freeze')))

function isActive({ pid, group }: Copy): boolean {
  if (isFrozen(group)) return false
  const [, state = '', flags = ''] = /\) (\S) (?:\S+ ){5}(\d+)/.exec(text(`/proc/${pid}/stat`)) ?? []
  if (!'RSD'.includes(state) || (Number(flags) & EXITING) !== 0) return false
  const pending = /^SigPnd:\s*(\w+)\nShdPnd:\s*(\w+)/m.exec(text(`/proc/${pid}/status`))
  // A frozen one that is killed is thawed for it, and ends before it runs.
  return pending?.slice(1).every((set) => (Number.parseInt(set.slice(-4), 16) & KILLED) === 0) ?? false
}

/** First processes of the lab's containers that are what the container is to run: not runc's init, nor CRIU. */
function copiesOf(name: string): Copy[] {
  return groupsOf(name).flatMap((group) => {
    const pid = Number(text(join(group, 'cgroup.procs')).split('\n')[0])
    const work = pid > 0 ? text(`/proc/${pid}/cmdline`) : ''
    const name = basename(group).replace(/-[0-9a-f]{8}$/, '')
    return /^\/bin\/(?:perl|redis-server)/.test(work) ? [{ pid, group, work: name }] : []
  })
}

function doublesIn(name: string): string[] {
  const copies = copiesOf(name)
  const found: string[] = []
  for (const [i, one] of copies.entries()) {
    for (const other of copies.slice(i + 1)) {
      if (one.work !== other.work) continue
      // The one may have been frozen while the other was looked at: only both, in turn and again, is at once.
      const active = (): boolean => isActive(one) && isActive(other)
      if (active() && active() && active()) {
        found.push(
          `${new Date().toISOString()}: ${one.pid} in ${one.group} and ${other.pid} in ${other.group}`,
        )
      }
    }
  }
  return found
}

if (import.meta.main) {
  const [name = ''] = process.argv.slice(2)
  const doubles: string[] = []
  let samples = 0
  setInterval(() => {
    samples++
    if (doubles.length < MOST) doubles.push(...doublesIn(name))
  }, EVERY_MS)
  process.stdin.on('data', () => process.stdout.write(`${JSON.stringify({ samples, doubles })}\n`))
  process.stdin.on('end', () => process.exit(0))
}
