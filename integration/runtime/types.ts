import type { Readable } from 'node:stream'
import type { Digest } from '../../base/index.ts'

export type RuntimeName = 'containerd' | 'docker' | 'runc'
export type ContainerState = 'created' | 'running' | 'paused' | 'stopped'

/** The OCI runtime configuration (config.json) as the runtime has it; only what Shoal looks at is typed. */
export interface OciSpec {
  ociVersion: string
  hostname?: string
  process?: {
    args?: string[]
    env?: string[]
    cwd?: string
    terminal?: boolean
    capabilities?: Record<string, string[] | undefined>
    [key: string]: unknown
  }
  root?: { path: string; readonly?: boolean }
  mounts?: { destination: string; type?: string; source?: string; options?: string[] }[]
  annotations?: Record<string, string>
  linux?: {
    namespaces?: { type: string; path?: string }[]
    devices?: { path: string; type: string }[]
    cgroupsPath?: string
    resources?: Record<string, unknown>
    [key: string]: unknown
  }
  [key: string]: unknown
}

/** What a runtime is and can do on this machine now. */
export interface RuntimeFacts {
  name: RuntimeName
  version: string
  /** The OCI runtime below it: a checkpoint is restored by the same one. */
  oci: { name: string; version: string }
  /** Undefined where there is no CRIU that starts. */
  criu: string | undefined
  can: { checkpoint: boolean; restore: boolean; run: boolean }
  /** Why it cannot, a sentence each. */
  why: string[]
}

export interface Container {
  runtime: RuntimeName
  /** The runtime's own, full. */
  id: string
  name: string
  state: ContainerState
  /** Of its first process, in the host's PID namespace, while there is one. */
  pid: number | undefined
  /** Name as the runtime has it, and the digest of its manifest or index where the runtime knows it. */
  image: { reference: string; digest: Digest | undefined } | undefined
  labels: Record<string, string>
  spec: OciSpec
}

/** What it takes to make the same container on another machine, in the runtime's own terms beside the spec. JSON. */
export interface Recreation {
  runtime: RuntimeName
  name: string
  image: { reference: string; digest: Digest | undefined } | undefined
  labels: Record<string, string>
  spec: OciSpec
  /** The driver's own: docker's Config and HostConfig, containerd's runtime options and snapshotter, … */
  own: Record<string, unknown>
}

export interface DumpOptions {
  /** Empty directory that CRIU's images go to. */
  dir: string
  /** `as-it-was`: a running container goes on, a paused one stays paused. `stopped`: its processes have ended when it returns. */
  leave: 'as-it-was' | 'stopped'
  /** Dump established TCP connections, for who brings the same address up at the target. */
  tcpEstablished?: boolean
}

/** Where in the network a container is to be; what it had counts where nothing is said. */
export interface Place {
  /** Path of a network namespace. */
  netns?: string
  /** For who joins none: TCP ports of the container that the machine's own lead to. */
  ports?: { port: number; host: number }[]
}

export interface PrepareOptions extends Place {
  /** The container's name on this machine. */
  name: string
  recreation: Recreation
  /** Reference under which the base image can be pulled or is there already; the driver has it unpacked. */
  image: string | undefined
  /** Labels to add. */
  labels?: Record<string, string>
}

/** A container that is made but was never started: its base image is unpacked, its name is taken, nothing runs. */
export interface Prepared {
  readonly id: string
  /** Makes the writable layer what the OCI layer tar says (whiteouts included). May be called again: the last one counts. */
  applyWritable(tar: Readable, signal: AbortSignal): Promise<void>
  /** Restores the processes from CRIU's images in `dir`. @throws RUNTIME with CRIU's own last words */
  start(dir: string, signal: AbortSignal): Promise<{ pid: number }>
  /** Removes it, started or not; idempotent. */
  discard(signal: AbortSignal): Promise<void>
}

export interface ExecResult {
  code: number
  /** Of stdout and stderr together, at most 64 KiB. */
  output: string
}

/** One container runtime of this machine. Adding another touches one file and the list in `index.ts`. */
export interface Runtime {
  readonly name: RuntimeName
  facts(signal: AbortSignal): Promise<RuntimeFacts>
  list(signal: AbortSignal): Promise<Container[]>
  /** By full ID, unique prefix or name. @throws NOT_FOUND */
  inspect(container: string, signal: AbortSignal): Promise<Container>
  describe(id: string, signal: AbortSignal): Promise<Recreation>
  /** Freezes all processes; nothing of it runs until `resume`. Idempotent, both. */
  pause(id: string, signal: AbortSignal): Promise<void>
  resume(id: string, signal: AbortSignal): Promise<void>
  /** CRIU's images into a directory. @throws RUNTIME with CRIU's own last words; the container is as it was then */
  dump(id: string, options: DumpOptions, signal: AbortSignal): Promise<void>
  /** The writable layer as an OCI layer tar, uncompressed, whiteouts included. Of a running container it is as good as a copy of files in use. */
  writable(id: string, signal: AbortSignal): Promise<Readable>
  prepare(options: PrepareOptions, signal: AbortSignal): Promise<Prepared>
  /** Takes up a container that `prepare` made in an earlier run of the daemon. @throws NOT_FOUND */
  prepared(id: string, signal: AbortSignal): Promise<Prepared>
  exec(id: string, args: string[], options: { timeoutMs: number; signal: AbortSignal }): Promise<ExecResult>
  /** SIGKILL and removal with its writable layer. A paused one dies without having run again. True if there was one. */
  remove(id: string, signal: AbortSignal): Promise<boolean>
  close(): Promise<void>
}
