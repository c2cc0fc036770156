import { formatBytes } from '../../base/index.ts'
import type { Recreation, RuntimeFacts } from '../runtime/types.ts'
import { lackingCpu } from './cpu.ts'
import type { HostNeeds } from './types.ts'

/** A machine on which something is to be restored, as far as it matters for this one container. */
export interface HostFacts {
  /** As Node.js calls it: `x64`, `arm64`. */
  arch: string
  kernel: string
  /** Flags of /proc/cpuinfo. */
  cpu: string[]
  cgroups: HostNeeds['cgroups']
  /** The runtime that is to restore it; undefined where there is none of this name. */
  runtime: RuntimeFacts | undefined
  /** Files of the machine that the container uses (sources of mounts, devices, namespaces) and that are not here. */
  missing: { path: string; what: 'mount' | 'device' | 'namespace' }[]
  /** Ports of the container's that somebody listens on. */
  portsTaken: { protocol: string; port: number }[]
  /** Of the file system that the state is written to. */
  freeBytes: number
  nameTaken: boolean
  /** Why the base image cannot be had; undefined: it can. */
  imageLacks: string | undefined
}

/** Bytes of disk that a state of `size` needs while it is restored: CRIU's images, and the writable layer unpacked. */
const DISK_FACTOR = 2
const DISK_SPARE = 64 * 1024 * 1024

/**
 * Every reason why the container cannot be restored on this machine, a sentence each; none: it can be tried. Pure.
 * CRIU reads images of older versions and restores on the same or a newer kernel, but uses nothing that is not there.
 */
export function unfit(options: {
  needs: HostNeeds
  host: HostFacts
  recreation: Recreation
  /** Under which name it is to run. */
  name: string
  /** Runtime that is to restore it. */
  runtime: string
  /** Bytes of the state. */
  size: number
}): string[] {
  const { needs, host, recreation, name, runtime, size } = options
  const reasons: string[] = []
  const say = (is: boolean, reason: () => string): void => {
    if (is) reasons.push(reason())
  }
  say(needs.arch !== host.arch, () => `it was made on ${needs.arch}, this machine is ${host.arch}`)
  if (needs.arch === host.arch) {
    const lacking = lackingCpu(needs.arch, needs.cpu, host.cpu)
    say(
      lacking.length > 0,
      () => `the processor here lacks ${lacking.join(', ')}, which the program may be using`,
    )
  }
  say(isOlder(host.kernel, needs.kernel, 2), () => `kernel ${host.kernel} is older than ${needs.kernel}`)
  say(
    needs.cgroups !== host.cgroups,
    () => `cgroups are ${host.cgroups} here, and ${needs.cgroups} where it was made`,
  )
  say(
    recreation.runtime !== runtime,
    () => `it was made by ${recreation.runtime} and cannot be restored by ${runtime}`,
  )
  if (recreation.runtime === runtime) reasons.push(...runtimeLacks(needs, host, runtime))
  say(host.imageLacks !== undefined, () => `base image: ${host.imageLacks}`)
  const what = { mount: 'the source of a mount', device: 'the device', namespace: 'the namespace' }
  for (const { path, what: kind } of host.missing) reasons.push(`${what[kind]} ${path} is not here`)
  for (const { protocol, port } of host.portsTaken) reasons.push(`port ${port}/${protocol} is taken`)
  const room = size * DISK_FACTOR + DISK_SPARE
  say(
    host.freeBytes < room,
    () => `the disk has ${formatBytes(host.freeBytes)} left, and ${formatBytes(room)} are needed`,
  )
  say(host.nameTaken, () => `there is a container ${name} already`)
  return reasons
}

function runtimeLacks(needs: HostNeeds, host: HostFacts, name: string): string[] {
  const { runtime } = host
  if (!runtime) return [`there is no ${name} here`]
  if (!runtime.can.restore) return runtime.why.length > 0 ? runtime.why : [`${name} cannot restore here`]
  const reasons: string[] = []
  const { oci, criu } = runtime
  if (oci.name !== needs.oci.name) {
    reasons.push(`${needs.oci.name} made it, and ${name} runs containers with ${oci.name} here`)
  } else if (isOlder(oci.version, needs.oci.version, 2)) {
    reasons.push(`${oci.name} ${oci.version} is older than ${needs.oci.version}`)
  }
  if (criu === undefined) reasons.push('there is no CRIU here that starts')
  else if (isOlder(criu, needs.criu, 2)) reasons.push(`CRIU ${criu} is older than ${needs.criu}`)
  return reasons
}

/** Whether `version` is before `than` in its first `parts` numbers: `6.1.0-13` before `6.5`. */
function isOlder(version: string, than: string, parts: number): boolean {
  const numbers = (text: string): number[] => (text.match(/\d+/g) ?? []).map(Number)
  const a = numbers(version)
  const b = numbers(than)
  for (let i = 0; i < parts; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}
