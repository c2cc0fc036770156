import type { Digest } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import type { Recreation, RuntimeName } from '../runtime/types.ts'

/** What must fit where a checkpoint is restored; found out on the node that made it. */
export interface HostNeeds {
  arch: string
  kernel: string
  /** Flags of /proc/cpuinfo. */
  cpu: string[]
  criu: string
  oci: { name: string; version: string }
  cgroups: 'v1' | 'v2' | 'hybrid'
}

/** A published checkpoint: `NAME` has versions 1, 2, …; `NAME:3` names one, `NAME` the newest. */
export interface Checkpoint {
  name: string
  version: number
  /** Of its OCI index, under which registry clients fetch it. */
  digest: Digest
  /** The state's recipe (see states). */
  recipe: Digest
  /** Undefined: it is sealed, and not for this node. */
  recreation: Recreation | undefined
  /** What it was made of, as everybody may know it. */
  container: { name: string; runtime: string; image?: { reference: string; digest?: Digest } }
  needs: HostNeeds
  /** Node that made it; its signature is over all of this. */
  node: PeerId
  site: string
  /** ms since the epoch. */
  createdAt: number
  expiresAt: number | undefined
  /** Bytes of the state; bytes of what this version added to the swarm. */
  size: number
  added: number
  copies: number
  /** Nodes that can open it; undefined: every node of the cluster. */
  sealedFor: PeerId[] | undefined
}

export interface StepTimes {
  /** Seconds by step, in the order in which they were done. */
  [step: string]: number
}

/** A checkpoint that is made anew every so often. */
export interface ScheduleRequest {
  container: string
  runtime: RuntimeName
  /** Default: the container's name. */
  name?: string
  everyMs: number
  /** Versions that are kept of those that this node made; default 3. */
  keep?: number
  copies?: number
  encryptFor?: PeerId[]
}

export interface Schedule {
  /** Of the checkpoint. */
  name: string
  container: string
  id: string
  runtime: RuntimeName
  everyMs: number
  keep: number
  copies?: number
  encryptFor?: PeerId[]
  /** ms since the epoch; of the last one that was made. */
  lastAt?: number
  lastVersion?: number
  /** Why the last attempt failed. */
  error?: string
}

export interface Checkpoints {
  create(request: {
    container: string
    runtime: RuntimeName
    /** Default: the container's name. */
    name?: string
    leaveRunning: boolean
    copies?: number
    /** Only these nodes can open it. */
    encryptFor?: PeerId[]
    expiresInMs?: number
    signal: AbortSignal
    onStep?: (step: string) => void
  }): Promise<{ checkpoint: Checkpoint; seconds: StepTimes }>
  list(): Promise<Checkpoint[]>
  /** @throws NOT_FOUND | NAME_INVALID */
  inspect(reference: string): Promise<Checkpoint>
  /** One version, or all where none is named. */
  remove(reference: string, signal: AbortSignal): Promise<number>
  /** @throws UNFIT with all reasons, before anything is made | DENIED (not sealed for this node, or not signed by a node of the cluster) */
  restore(request: {
    reference: string
    name?: string
    runtime?: RuntimeName
    signal: AbortSignal
    onStep?: (step: string) => void
  }): Promise<{ container: string; pid: number; seconds: StepTimes }>
  /** Keeps one fresh, beginning now, until the container is gone; goes on after a restart. @throws NOT_FOUND | USAGE */
  schedule(request: ScheduleRequest, signal: AbortSignal): Promise<Schedule>
  schedules(): Schedule[]
  /** By the checkpoint's name; what was made stays. False if there is none. */
  unschedule(name: string): Promise<boolean>
  close(): Promise<void>
}
