/** containerd's API as far as it is used here; `proto/` has the wire's side of it. */

export interface CallOptions {
  signal: AbortSignal
  /** Default 60 s; 0: none. */
  timeoutMs?: number
}

/** @throws NOT_FOUND | BUSY (there is one already, or it is in use) | UNFIT (not implemented) | TIMEOUT | ABORTED | RUNTIME */
export type Unary<Request, Response> = (request: Request, options: CallOptions) => Promise<Response>
export type Streaming<Request, Response> = (request: Request, options: CallOptions) => AsyncIterable<Response>

export interface Any {
  type_url: string
  value: Uint8Array
}
export interface Timestamp {
  seconds: number
  nanos: number
}
export interface Descriptor {
  mediaType: string
  digest: string
  size: number
  annotations?: Record<string, string>
}
export interface Mount {
  type: string
  source: string
  target?: string
  options: string[]
}
export interface ContainerRecord {
  id: string
  labels: Record<string, string>
  image: string
  runtime: { name: string; options: Any | null } | null
  spec: Any | null
  snapshotter: string
  snapshotKey: string
  extensions: Record<string, Any>
}
export interface Process {
  /** Of the container, or of the exec that was asked for. */
  id: string
  /** Of a stopped one, too. */
  pid: number
  status: 'UNKNOWN' | 'CREATED' | 'RUNNING' | 'STOPPED' | 'PAUSED' | 'PAUSING'
  stdout: string
  exitStatus: number
}
export interface ImageRecord {
  name: string
  labels: Record<string, string>
  target: Descriptor | null
}
export interface SnapshotInfo {
  name: string
  parent: string
  kind: 'UNKNOWN' | 'VIEW' | 'ACTIVE' | 'COMMITTED'
}
export interface Plugin {
  type: string
  id: string
  exports: Record<string, string>
}
export interface Envelope {
  timestamp: Timestamp | null
  namespace: string
  /** `/tasks/exit`, `/images/create`, `/snapshot/remove`, `/content/delete`, … */
  topic: string
  event: Any | null
}
export interface RuncOptions {
  binaryName: string
  root: string
  systemdCgroup: boolean
  criuImagePath: string
  criuWorkPath: string
}
export interface CheckpointOptions {
  exit: boolean
  openTcp: boolean
  externalUnixSockets: boolean
  fileLocks: boolean
  cgroupsMode: string
  imagePath: string
  workPath: string
}

type TaskId = { containerId: string; execId?: string }
type SnapshotKey = { snapshotter: string; key: string }

export interface ContainerdApi {
  containers: {
    get: Unary<{ id: string }, { container: ContainerRecord }>
    list: Unary<{ filters?: string[] }, { containers: ContainerRecord[] }>
    create: Unary<{ container: Partial<ContainerRecord> & { id: string } }, { container: ContainerRecord }>
    update: Unary<
      { container: Partial<ContainerRecord> & { id: string }; updateMask: { paths: string[] } },
      { container: ContainerRecord }
    >
    delete: Unary<{ id: string }, unknown>
  }
  tasks: {
    create: Unary<
      {
        containerId: string
        rootfs: Mount[]
        stdin?: string
        stdout?: string
        stderr?: string
        options?: Any
      },
      { pid: number }
    >
    start: Unary<TaskId, { pid: number }>
    delete: Unary<{ containerId: string }, { exitStatus: number }>
    deleteProcess: Unary<TaskId, { exitStatus: number }>
    get: Unary<TaskId, { process: Process }>
    list: Unary<{ filter?: string }, { tasks: Process[] }>
    kill: Unary<TaskId & { signal: number; all?: boolean }, unknown>
    exec: Unary<
      { containerId: string; execId: string; stdin?: string; stdout?: string; stderr?: string; spec: Any },
      unknown
    >
    pause: Unary<{ containerId: string }, unknown>
    resume: Unary<{ containerId: string }, unknown>
    checkpoint: Unary<{ containerId: string; options: Any }, { descriptors: Descriptor[] }>
    /** Resolves when the process has ended. */
    wait: Unary<TaskId, { exitStatus: number }>
  }
  images: {
    get: Unary<{ name: string }, { image: ImageRecord }>
    list: Unary<{ filters?: string[] }, { images: ImageRecord[] }>
  }
  content: {
    info: Unary<
      { digest: string },
      { info: { digest: string; size: number; labels: Record<string, string> } }
    >
    read: Streaming<{ digest: string; offset?: number; size?: number }, { offset: number; data: Uint8Array }>
  }
  snapshots: {
    prepare: Unary<SnapshotKey & { parent: string; labels?: Record<string, string> }, { mounts: Mount[] }>
    mounts: Unary<SnapshotKey, { mounts: Mount[] }>
    remove: Unary<SnapshotKey, unknown>
    stat: Unary<SnapshotKey, { info: SnapshotInfo }>
    /** Bytes on the disk; of an active one they are counted anew. */
    usage: Unary<SnapshotKey, { size: number }>
  }
  events: {
    /** Ends with an error when containerd goes. */
    subscribe: Streaming<{ filters: string[] }, Envelope>
  }
  introspection: {
    plugins: Unary<{ filters?: string[] }, { plugins: Plugin[] }>
  }
  version: {
    version: Unary<Record<string, never>, { version: string; revision: string }>
  }
  /** The kubelet's interface, where it is turned on (UNFIT otherwise). */
  cri: {
    /** `info.config`: its configuration as JSON, when asked to be verbose. */
    status: Unary<{ verbose: boolean }, { info: Record<string, string> }>
  }
}
