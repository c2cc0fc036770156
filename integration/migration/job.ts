import { type Digest, ShoalError } from '../../base/index.ts'
import type { Prepared } from '../runtime/types.ts'
import type { Entry } from './entry.ts'
import { METHODS, type Offer, type Outcome, readStanding, type Standing } from './messages.ts'
import type { Parts } from './parts.ts'
import type { Move } from './types.ts'

/** Label of a container that a migration made: the ID of the migration. Finds one whose daemon died before it noted it. */
export const LABEL = 'shoal.migration'

/** What is only in memory of a migration to here: after a restart one that was not started yet is given up. */
export interface Job {
  offer: Offer
  /** Calls off whatever is being done before anything was started. */
  abort: AbortController
  preparing: Promise<Prepared>
  assembling: { recipe: Digest; work: Promise<number> } | undefined
  /** What its directory holds, and how much of it came over the network. */
  assembled: { recipe: Digest; fetched: number } | undefined
  applied: Digest | undefined
  /** Unpacking the writable layer, one time after the other. */
  unpacking: Promise<void>
  fetched: number
  starting: Promise<Outcome> | undefined
  heardAt: number
}

/** What the parts of the target's end share. */
export interface Target extends Parts {
  jobs: Map<string, Job>
  /** For work that ends by itself, or with the daemon, whose successor takes it up. */
  background(id: string, work: Promise<unknown>): void
  /** What the source says of a migration; undefined when it says nothing. */
  askStanding(entry: Entry): Promise<Standing | undefined>
}

export function createTargetParts(parts: Parts): Target {
  const { rpc, timings, log, signal } = parts
  return {
    ...parts,
    jobs: new Map(),
    background(id, work) {
      work.catch((error) => {
        if (!signal.aborted) log.error({ id, error: String(error) }, 'a migration to here broke')
      })
    },
    async askStanding({ id, from }) {
      try {
        const options = { signal, timeoutMs: timings.callMs }
        return readStanding(await rpc.request(from, METHODS.status, { id }, options))
      } catch {
        return undefined
      }
    },
  }
}

/** A migration as owners of containers are told of it. */
export function moveOf({ id, container, labels, from, to }: Entry): Move {
  return { id, from, to, container: { ...container, labels } }
}

export function never(entry: Entry | undefined): Outcome {
  return { verdict: 'never', reason: entry?.reason ?? 'the target knows nothing of it' }
}

export function stopping(): ShoalError {
  return new ShoalError('ABORTED', 'the daemon is stopping')
}
