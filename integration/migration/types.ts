import type { PeerId } from '../../manager/index.ts'
import type { Container, Place, RuntimeName } from '../runtime/types.ts'

export type HealthCheck =
  | { kind: 'exec'; args: string[] }
  | { kind: 'http'; url: string }
  | { kind: 'tcp'; host: string; port: number }

export interface MigrationRequest {
  container: string
  runtime: RuntimeName
  /** Name or peer ID. */
  to: string
  /** Most pre-copy rounds before the frozen one; 0: none. Default 5. */
  rounds?: number
  health?: HealthCheck
  tcpEstablished?: boolean
}

/** `undecided`: a person must say which side is to run; the record has the command. */
export type MigrationState =
  | 'running'
  | 'done'
  | 'rolled-back'
  | 'refused'
  | 'failed'
  | 'called-off'
  | 'undecided'

export interface Round {
  /** The last one is the one in which the container is frozen. */
  frozen: boolean
  seconds: number
  /** Bytes that changed, before compression; bytes that were sent. */
  changed: number
  sent: number
}

/** One migration as its journal has it, on the source and on the target alike. */
export interface Migration {
  id: string
  role: 'source' | 'target'
  container: { id: string; name: string; runtime: RuntimeName }
  from: PeerId
  to: PeerId
  state: MigrationState
  phase: string
  rounds: Round[]
  /** Frozen at the source until running at the target, ms. */
  downtimeMs: number | undefined
  /** When the copy's processes were restored at the target. */
  restoredAt: number | undefined
  startedAt: number
  endedAt: number | undefined
  /** Why it was refused, failed or is undecided, and what to do about it. */
  reason: string | undefined
}

/** What the owner of a container (the executor of the MEC API, say) does about its moving; chosen by the container's labels. */
export interface MoveHooks {
  owns(labels: Record<string, string>): boolean
  /** On the target, before anything is made there: its place in the network, labels to add. */
  prepare(move: Move, signal: AbortSignal): Promise<Place & { labels?: Record<string, string> }>
  /** On the target, when it runs and is healthy. */
  arrived(move: Move, container: Container, signal: AbortSignal): Promise<void>
  /** On the target, when it came to nothing. */
  discarded(move: Move, signal: AbortSignal): Promise<void>
  /** On the source, when the container is gone from there. */
  left(move: Move, signal: AbortSignal): Promise<void>
}

export interface Move {
  id: string
  container: { id: string; name: string; runtime: RuntimeName; labels: Record<string, string> }
  from: PeerId
  to: PeerId
}

export interface Migrations {
  /** Resolves when the journal has it; what becomes of it is told by `get` and `onChange`. @throws NOT_FOUND | UNFIT | BUSY (it is moving already) */
  start(request: MigrationRequest): Promise<Migration>
  get(id: string): Migration | undefined
  list(): Migration[]
  /** Resolves with the record when it has ended. */
  ended(id: string, signal: AbortSignal): Promise<Migration>
  /**
   * Calls one off, on its source, before the container is frozen: it ends as `called-off`, whatever becomes of the daemon.
   * @throws NOT_FOUND | BUSY (it is too late, or this is not the source)
   */
  cancel(id: string): Promise<Migration>
  /** A person's word on an undecided one: which side is to run. */
  decide(id: string, side: 'source' | 'target'): Promise<Migration>
  /** Moves every managed container somewhere else; what cannot move is handed off or named with its reason. */
  drain(options: {
    signal: AbortSignal
  }): Promise<{ moved: Migration[]; left: { container: string; reason: string }[] }>
  onChange(listener: (migration: Migration) => void): () => void
  hooks(hooks: MoveHooks): void
  close(): Promise<void>
}
