import type { PeerId } from '../../manager/index.ts'

/** A pod of an application as a device describes it. */
export interface PodSpec {
  name: string
  image: string
  ui: boolean
  args: string[]
  env: Record<string, string>
  /** Cores, bytes, bytes. */
  cpu: number
  memory: number
  storage: number
  ports: number[]
}

export interface AppSpec {
  name: string
  pods: PodSpec[]
  requiredDelayMs: number | undefined
  executionTimeS: number | undefined
  /** Higher ones may preempt lower ones. */
  priority: number
}

export type AppState = 'registered' | 'copying' | 'starting' | 'running' | 'failed' | 'deleting'

export interface PodStatus {
  name: string
  state: 'pending' | 'pulling' | 'starting' | 'running' | 'failed'
  /** Name and peer ID of the node it was placed on. */
  node: string | undefined
  peer: PeerId | undefined
  referenceURI: string | undefined
  /** From the offload request until it ran. */
  startedMs: number | undefined
  reason: string | undefined
}

export interface App {
  id: string
  /** The UE whose it is. */
  owner: string
  spec: AppSpec
  state: AppState
  pods: PodStatus[]
  /** Why it was placed as it was, or why it was not: a line a node. */
  reasons: string[]
  createdAt: number
}

/** What becomes of a pod that moves from one node to another by a migration, the manager's own or an operator's. */
export interface AppMoved {
  /** As it is then: with `moved` it has the new node and address. */
  app: App
  pod: string
  from: PeerId
  to: PeerId
  status: 'moving' | 'moved' | 'failed'
  /** Where it can be reached after that, if anywhere. */
  referenceURI: string | undefined
}

export interface Whereabouts {
  /** The node that the UE is at. */
  entry?: PeerId
  /** Only these nodes come into question. */
  within?: PeerId[]
}

/** The local MANO manager: applications of UEs, where they run, and what becomes of them. Its state is in the store's index. */
export interface Offload {
  /**
   * Copies the images into the site in the background. With an `id` of 32 hexadecimal digits it may be called again after a crash: there is
   * one application. @throws USAGE
   */
  register(owner: string, spec: AppSpec, options?: { id?: string }): Promise<App>
  /** Does nothing where it runs already or is starting. @throws NOT_FOUND | UNFIT when nothing fits here nor at the next manager up */
  offload(owner: string, id: string, options: Whereabouts): Promise<App>
  get(owner: string, id: string): Promise<App | undefined>
  list(owner: string): Promise<App[]>
  /** False if there is none (any more). Resolves when nothing is left of it. */
  delete(owner: string, id: string, signal: AbortSignal): Promise<boolean>
  /** Whether it would fit now, and where; nothing is done. */
  available(
    spec: AppSpec,
    options: Whereabouts,
  ): Promise<{ fits: boolean; reasons: string[]; nodes: PeerId[] }>
  /** The UE is at another entry node now: applications whose required delay is no longer met there move, if `follows` says that they may. */
  moved(owner: string, entry: PeerId, follows?: (app: App) => boolean): Promise<void>
  onChange(listener: (app: App) => void): () => void
  onMoved(listener: (moved: AppMoved) => void): () => void
  close(): Promise<void>
}
