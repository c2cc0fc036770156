import type { PeerId } from '../../manager/index.ts'
import type { RuntimeName } from '../runtime/types.ts'
import type { PodSpec } from './types.ts'

/** A pod as its manager wants it on this node. The application and the pod name it; a higher generation replaces a lower one. */
export interface PodOrder {
  app: string
  pod: string
  /** The UE whose it is. */
  owner: string
  /** The node whose Offload decides about it. */
  manager: PeerId
  /** Raised by the manager with each placement: what is left of an earlier one is known by it. */
  generation: number
  spec: PodSpec
}

export interface PodRef {
  app: string
  pod: string
}

/** `moving`: it runs, and a migration to another node is under way. `arriving`: one is under way to here. */
export type PodPhase =
  | 'waiting'
  | 'pulling'
  | 'starting'
  | 'running'
  | 'failed'
  | 'moving'
  | 'arriving'
  | 'removing'

/** A pod as it is on this node. */
export interface PodReport extends PodRef {
  manager: PeerId
  generation: number
  phase: PodPhase
  /** Where its ports can be reached, in the order of the specification. */
  ports: { port: number; host: number }[]
  /** Of its first port; undefined while it does not run, or has none. */
  referenceURI: string | undefined
  restarts: number
  /** Why it does not run, or no longer where it was. */
  reason: string | undefined
}

/**
 * What runs pods on one node. The manager talks to it by RPC and knows nothing of containers: another platform is another
 * implementation of this.
 */
export interface Executor {
  /**
   * Writes down that the pod shall run here and answers at once; the work goes on, over restarts too. Idempotent. An order of an older
   * generation changes nothing. @throws UNFIT when there is no room for it
   */
  ensure(order: PodOrder): Promise<PodReport>
  /** Resolves when nothing is left of it: processes, image layer, network, ports, records. False if there was nothing. */
  remove(ref: PodRef, signal: AbortSignal): Promise<boolean>
  reports(): PodReport[]
  /** Moves it to another node with its state; resolves when that is under way. @throws UNFIT | NOT_FOUND | BUSY */
  move(ref: PodRef, to: PeerId, signal: AbortSignal): Promise<void>
  /** What its pods have reserved, by manager. */
  reserved(): Reserved[]
  onReport(listener: (report: PodReport) => void): () => void
  close(): Promise<void>
}

export interface Reserved {
  manager: PeerId
  cpu: number
  memory: number
  storage: number
}

/** A container that a driver has, by the labels that it was given. */
export interface DriverPod {
  name: string
  labels: Record<string, string>
  /** Of its first process; undefined: it does not run. */
  pid: number | undefined
}

export interface PodStart {
  name: string
  labels: Record<string, string>
  spec: PodSpec
  /** Path of the network namespace that it lives in; undefined: the runtime makes one, with these ports. */
  netns: string | undefined
  ports: { port: number; host: number }[]
  /** Where its output goes; undefined: nowhere. */
  log: string | undefined
}

/** The few things that NodeExecutor needs of a container runtime. Each is idempotent; what it leaves when it is cut short, the next call clears. */
export interface PodDriver {
  readonly runtime: RuntimeName
  /** Why nothing can run here now; undefined: it can. */
  unfit(signal: AbortSignal): Promise<string | undefined>
  /** @throws RUNTIME with the runtime's own last words */
  pull(image: string, signal: AbortSignal): Promise<void>
  /** Containers of this node's pods, whether they run or not. */
  list(signal: AbortSignal): Promise<Omit<DriverPod, 'pid'>[]>
  find(name: string, signal: AbortSignal): Promise<DriverPod | undefined>
  /** Makes it anew and starts it: what there was under the name goes first. */
  start(pod: PodStart, signal: AbortSignal): Promise<{ pid: number }>
  /** How it ended, for people, where the runtime knows it. */
  ending(name: string, signal: AbortSignal): Promise<string | undefined>
  /** Bytes of its writable layer on the disk; undefined: it is gone, or keeps none that can be measured. */
  usage(name: string, signal: AbortSignal): Promise<number | undefined>
  /** Kills and removes it with its writable layer. False if there was none. */
  remove(name: string, signal: AbortSignal): Promise<boolean>
}

/** A network for one pod, with ports of the node that lead to it. Idempotent, too. */
export interface PodNetwork {
  /** Makes it, where it is not there whole. Resolves to the path of its namespace; undefined: the runtime makes it with the container. */
  attach(
    name: string,
    ports: { port: number; host: number }[],
    signal: AbortSignal,
  ): Promise<string | undefined>
  detach(name: string, signal: AbortSignal): Promise<void>
  /** Names of what is attached, whole or in part. */
  list(): Promise<string[]>
  /** Pods live in the node's own network: two with the same port do not fit on it, and none can move. */
  readonly shared: boolean
}
