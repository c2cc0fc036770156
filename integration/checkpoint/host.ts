import { access, readFile, statfs } from 'node:fs/promises'
import { release } from 'node:os'
import { isShoalError } from '../../base/index.ts'
import type { Place, Recreation, Runtime, RuntimeFacts } from '../runtime/types.ts'
import { cpuFlags } from './cpu.ts'
import { type Demands, demandsOf } from './demands.ts'
import type { HostFacts } from './fitness.ts'
import type { HostNeeds } from './types.ts'

/** statfs's f_type of a cgroup2 file system. */
const CGROUP2 = 0x63677270
/** The state of a listening TCP socket, and of a bound UDP socket, in /proc/net. */
const LISTENS = { tcp: '0A', udp: '07' }

/** What a checkpoint made now by this runtime will need where it is restored. */
export async function hostNeeds(facts: RuntimeFacts): Promise<HostNeeds> {
  return {
    arch: process.arch,
    kernel: release(),
    cpu: await flags(),
    criu: facts.criu ?? '',
    oci: facts.oci,
    cgroups: await cgroups(),
  }
}

/** What this machine has of what the container uses. */
export async function hostFacts(options: {
  recreation: Recreation
  name: string
  /** Undefined where there is none of this name. */
  runtime: Runtime | undefined
  /** Where the state is written to. */
  dir: string
  place?: Place
  /** Why the base image cannot be had here; undefined: it can. */
  imageLacks: string | undefined
  signal: AbortSignal
}): Promise<HostFacts> {
  const { recreation, name, runtime, dir, place, imageLacks, signal } = options
  const demands = demandsOf(recreation, place)
  const disk = await statfs(dir)
  return {
    arch: process.arch,
    kernel: release(),
    cpu: await flags(),
    cgroups: await cgroups(),
    runtime: await runtime?.facts(signal),
    missing: await missing(demands),
    portsTaken: await taken(demands.ports),
    freeBytes: disk.bavail * disk.bsize,
    nameTaken: runtime !== undefined && (await exists(runtime, name, signal)),
    imageLacks,
  }
}

async function flags(): Promise<string[]> {
  return cpuFlags(await readFile('/proc/cpuinfo', 'latin1').catch(() => ''))
}

async function cgroups(): Promise<HostNeeds['cgroups']> {
  const root = '/sys/fs/cgroup'
  const type = await statfs(root).then(
    (found) => found.type,
    () => 0,
  )
  if (type === CGROUP2) return 'v2'
  return (await isThere(`${root}/unified`)) ? 'hybrid' : 'v1'
}

async function exists(runtime: Runtime, name: string, signal: AbortSignal): Promise<boolean> {
  try {
    // A prefix of an ID finds a container too; only its name or whole ID is in the way.
    const found = await runtime.inspect(name, signal)
    return found.name === name || found.id === name
  } catch (error) {
    if (isShoalError(error, 'NOT_FOUND')) return false
    throw error
  }
}

async function missing(demands: Demands): Promise<HostFacts['missing']> {
  const asked = [
    ...demands.mounts.map((path) => ({ path, what: 'mount' as const })),
    ...demands.devices.map((path) => ({ path, what: 'device' as const })),
    ...demands.namespaces.map((path) => ({ path, what: 'namespace' as const })),
  ]
  const there = await Promise.all(asked.map(({ path }) => isThere(path)))
  return asked.filter((_, index) => !there[index])
}

async function taken(ports: Demands['ports']): Promise<Demands['ports']> {
  if (ports.length === 0) return []
  const open = {
    tcp: new Set([...(await listening('tcp')), ...(await listening('tcp6'))]),
    udp: new Set([...(await listening('udp')), ...(await listening('udp6'))]),
  }
  return ports.filter(({ protocol, port }) => open[protocol === 'udp' ? 'udp' : 'tcp'].has(port))
}

async function listening(table: 'tcp' | 'tcp6' | 'udp' | 'udp6'): Promise<number[]> {
  const state = LISTENS[table.startsWith('udp') ? 'udp' : 'tcp']
  const text = await readFile(`/proc/net/${table}`, 'latin1').catch(() => '')
  return text
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter((columns) => columns[3] === state)
    .map((columns) => Number.parseInt(columns[1]?.split(':')[1] ?? '', 16))
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
