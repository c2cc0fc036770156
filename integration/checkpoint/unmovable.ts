import { formatBytes } from '../../base/index.ts'
import type { Container } from '../runtime/types.ts'
import { isOrdinaryDevice } from './demands.ts'
import { commandOf, isTraced, type OpenFile, openFiles, openTcp, processesOf } from './processes.ts'
import { unixPeers } from './unix-sockets.ts'

/** Of a file that is open but deleted CRIU takes a copy, up to this size (its --ghost-limit). */
const GHOST_LIMIT = 1024 * 1024
/** Kernel objects that CRIU has no image of, by what /proc/PID/fd calls them. */
const KERNEL_OBJECTS: [pattern: RegExp, name: string][] = [
  [/^anon_inode:\[?io_uring\]?$/, 'io_uring'],
  [/^anon_inode:\[?perf_event\]?$/, 'performance counters (perf_event_open)'],
  [/^anon_inode:\[?kvm-/, 'a virtual machine (KVM)'],
  [/^anon_inode:\[?bpf[-_]/, 'BPF programs or maps'],
  [/^anon_inode:\[?userfaultfd\]?$/, 'userfaultfd'],
  [/^anon_inode:\[?(?:seccomp notify|landlock-ruleset)\]?$/, 'a descriptor of seccomp or Landlock'],
]
/** Namespaces that a container has to have for itself, or joins by a path. */
const NAMESPACES: [type: string, name: string][] = [
  ['pid', 'PID'],
  ['network', 'network'],
  ['ipc', 'IPC'],
  ['mount', 'mount'],
]

/**
 * What of a running container cannot be dumped or cannot be restored elsewhere, a sentence each; none: CRIU can try. Looks only, nothing is
 * disturbed. It is a look at one moment: what opens later is found by CRIU, which leaves the container running.
 */
export async function unmovable(
  container: Container,
  options: { tcpEstablished?: boolean; signal: AbortSignal; proc?: string },
): Promise<string[]> {
  const { tcpEstablished = false, signal, proc } = options
  const { spec, pid } = container
  const reasons = new Set(configured(container))
  if (pid === undefined) return [...reasons, `it is not running (${container.state})`]
  const own = new Set((spec.linux?.devices ?? []).map(({ path }) => path))
  const pids = await processesOf(pid, proc)
  const files: OpenFile[] = []
  for (const one of pids) {
    files.push(...(await openFiles(one, proc)))
    if (await isTraced(one, proc)) reasons.add(`${await commandOf(one, proc)} is being debugged (ptrace)`)
  }
  signal.throwIfAborted()
  for (const { pid: one, target, deletedBytes } of files) {
    const object = KERNEL_OBJECTS.find(([pattern]) => pattern.test(target))
    if (object) reasons.add(`${await commandOf(one, proc)} uses ${object[1]}`)
    const device = target.startsWith('/dev/') && !target.endsWith(' (deleted)') && !isOrdinaryDevice(target)
    if (device && !own.has(target)) reasons.add(`${await commandOf(one, proc)} has the device ${target} open`)
    if (deletedBytes !== undefined && deletedBytes > GHOST_LIMIT) {
      const path = target.slice(0, -' (deleted)'.length)
      reasons.add(
        `${path} is deleted but still open, with ${formatBytes(deletedBytes)}: CRIU copies 1 MiB at most`,
      )
    }
  }
  const sockets = new Set(
    files.map(({ target }) => /^socket:\[(\d+)\]$/.exec(target)?.[1]).filter((each) => each !== undefined),
  )
  if (sockets.size === 0) return [...reasons]
  if (!tcpEstablished) {
    const open = [...(await openTcp(pid, proc)).keys()].filter((inode) => sockets.has(inode)).length
    if (open > 0) {
      reasons.add(`${open} TCP ${open === 1 ? 'connection is' : 'connections are'} established`)
    }
  }
  const outside = [...(await unixPeers(pid, signal))].filter(
    ([inode, peer]) => sockets.has(inode) && !sockets.has(peer),
  ).length
  if (outside > 0) {
    reasons.add(
      `${outside} unix ${outside === 1 ? 'socket is' : 'sockets are'} connected to processes outside of the container`,
    )
  }
  return [...reasons]
}

/** What its configuration tells already. */
function configured({ spec }: Container): string[] {
  const reasons: string[] = []
  const namespaces = new Map((spec.linux?.namespaces ?? []).map(({ type, path }) => [type, path]))
  for (const [type, name] of NAMESPACES) {
    if (!namespaces.has(type)) reasons.push(`it uses the host's ${name} namespace`)
  }
  for (const { path } of spec.linux?.devices ?? []) {
    if (!isOrdinaryDevice(path)) reasons.push(`it has the device ${path}`)
  }
  return reasons
}
