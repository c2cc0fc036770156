import type { Log } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Platform, RuntimeName, StepTimes } from '../../integration/index.ts'
import { createJobs, type Job, type Jobs } from './jobs.ts'

export interface CreateWanted {
  what: 'create'
  /** The container, as it was asked for. */
  reference: string
  runtime?: RuntimeName
  name?: string
  leaveRunning: boolean
  copies?: number
  encryptFor?: string[]
  expiresInMs?: number
}

export interface RestoreWanted {
  what: 'restore'
  /** The checkpoint. */
  reference: string
  runtime?: RuntimeName
  name?: string
}

/** What there is to tell of a checkpoint that is being made or restored. */
export interface CheckpointProgress {
  /** The one that it is at. */
  step?: string
  /** Seconds that each step took, when all are done. */
  seconds?: StepTimes
  /** NAME:VERSION that was made. */
  checkpoint?: string
  digest?: string
  size?: number
  added?: number
  /** ID of the container that was restored, and its first process. */
  container?: string
  pid?: number
}

export type CheckpointJob = Job & Pick<CreateWanted | RestoreWanted, 'what'> & CheckpointProgress

export type CheckpointJobs = Jobs<CreateWanted | RestoreWanted, CheckpointJob>

/**
 * Checkpoints that the API was asked to make or to restore. They do not go on after a restart: the daemon sets right what was half done, and
 * who asked asks again.
 */
export function createCheckpointJobs({ platform, log }: { platform: Platform; log: Log }): CheckpointJobs {
  async function create(wanted: CreateWanted, signal: AbortSignal, onStep: (step: string) => void) {
    const { what: _, reference, runtime: given, ...options } = wanted
    const { id, runtime } = await platform.runtimes.find(reference, {
      ...(given === undefined ? {} : { runtime: given }),
      signal,
    })
    const checkpoints = await platform.checkpoints()
    const { checkpoint, seconds } = await checkpoints.create({
      ...options,
      container: id,
      runtime,
      signal,
      onStep,
    })
    const { name, version, digest, size, added } = checkpoint
    return { checkpoint: `${name}:${version}`, digest, size, added, seconds }
  }

  async function restore(
    { what: _, ...wanted }: RestoreWanted,
    signal: AbortSignal,
    onStep: (step: string) => void,
  ) {
    return (await platform.checkpoints()).restore({ ...wanted, signal, onStep })
  }

  return createJobs<CreateWanted | RestoreWanted, CheckpointProgress, CheckpointJob>({
    what: 'checkpoint',
    run: (wanted, { signal, onProgress }) => {
      const onStep = (step: string): void => onProgress({ step })
      return wanted.what === 'create' ? create(wanted, signal, onStep) : restore(wanted, signal, onStep)
    },
    begin: ({ id, what, reference, state, startedAt }) => ({ id, what, reference, state, startedAt }),
    apply: (status, progress) => void Object.assign(status, progress),
    wanted: nothing(),
    log,
  })
}

function nothing<T>(): Records<T> {
  return {
    get: async () => undefined,
    put: async () => {},
    delete: async () => {},
    async *entries() {},
  }
}
