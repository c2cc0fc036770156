import type { Digest } from '../../base/index.ts'
import type { Migration, MigrationRequest } from './types.ts'

/**
 * Where the source is. Up to `copying` the container runs as ever; from `freezing` on it is frozen; from `handed-over` on the target
 * may have started, and only its word, or a person's, unfreezes or removes the container.
 */
export type SourcePhase = 'checking' | 'copying' | 'freezing' | 'handed-over' | 'committing' | 'resuming'

/** Where the target is. Up to `receiving` nothing was started; `starting` is written before anything is. */
export type TargetPhase = 'preparing' | 'receiving' | 'starting' | 'discarding' | 'confirming'

/** What the target can say for good: its copy runs, or it never will. */
export type Verdict = 'runs' | 'never'

/** A migration as the journal keeps it: what people see of it, and what it takes to go on after a crash. */
export interface Entry extends Migration {
  labels: Record<string, string>
  phase: SourcePhase | TargetPhase | 'ended'
  /** Source: what was asked for. */
  request?: MigrationRequest
  /** Source: a person called it off; it is never frozen. */
  calledOff?: true
  /** Source: a person said which side is to run, without waiting for the target. */
  forced?: 'source' | 'target'
  /** Target: the container that was made. */
  prepared?: string
  /** Target: once it is written here it is told to the source, and stays true. */
  verdict?: Verdict
  /** Target: what tells whether its copy is well; it goes on after a restart of the daemon. */
  health?: MigrationRequest['health']
  /** The state that was shipped last. */
  recipe?: Digest
  /** Source: ms since the epoch at which it was frozen. */
  frozenAt?: number
}

/** What is shown of an entry. */
export function migrationOf(entry: Entry): Migration {
  const { id, role, container, from, to, state, phase, rounds, reason } = entry
  const { downtimeMs, startedAt, restoredAt, endedAt } = entry
  return {
    id,
    role,
    container: { ...container },
    from,
    to,
    state,
    phase,
    rounds: [...rounds],
    downtimeMs,
    restoredAt,
    startedAt,
    endedAt,
    reason,
  }
}

export function isEnded({ state }: Migration): boolean {
  return state !== 'running' && state !== 'undecided'
}
