import type { Log } from '../../base/index.ts'
import type { PodDriver, PodNetwork } from './executor.ts'

/** What pods of this node run on. */
export interface PodRuntime {
  driver: PodDriver
  network: PodNetwork
  close(): void
}

export interface PodRuntimeOptions {
  socket: string
  /** Where runtimes of this machine pull from, HOST:PORT. */
  registry: string
  /** For what drivers and networks keep as files. */
  dir: string
  /** Cgroup below which pods get theirs. */
  cgroupParent: string
  /** Label by which this node's containers are known, and its value. */
  mine: { label: string; value: string }
  log: Log
}

/** Another runtime is another line here, and a socket in `PodSockets`. The first one that is configured runs the pods. */
const RUNTIMES: Record<keyof PodSockets, (options: PodRuntimeOptions) => Promise<PodRuntime>> = {
  containerd: async (options) => (await import('./containerd/index.ts')).openContainerd(options),
  docker: async (options) => (await import('./docker/index.ts')).openDocker(options),
}

/** Sockets of the runtimes of this machine. */
export interface PodSockets {
  containerd?: string | undefined
  docker?: string | undefined
}

function chosen(sockets: PodSockets): { name: keyof PodSockets; socket: string } | undefined {
  for (const name of Object.keys(RUNTIMES) as (keyof PodSockets)[]) {
    const socket = sockets[name]
    if (socket !== undefined) return { name, socket }
  }
  return undefined
}

export function canRunPods(sockets: PodSockets): boolean {
  return chosen(sockets) !== undefined
}

/** Loads what it takes. */
export async function openPodRuntime(
  sockets: PodSockets,
  options: Omit<PodRuntimeOptions, 'socket'>,
): Promise<PodRuntime> {
  const { name, socket } = chosen(sockets)!
  return RUNTIMES[name]({ ...options, socket })
}
