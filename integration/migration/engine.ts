import { type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Member, PeerId, Rpc } from '../../manager/index.ts'
import type { Claim } from '../claims.ts'
import type { Runtimes } from '../runtime/index.ts'
import type { Clock } from './clock.ts'
import { type Entry, migrationOf } from './entry.ts'
import { createJournal } from './journal.ts'
import type { Carrier, Judge, Parts, Timings } from './parts.ts'
import { createSource } from './source.ts'
import { createTarget } from './target.ts'
import type { Migration, Migrations, MoveHooks } from './types.ts'

/** How long a daemon that stops waits for a container to be unfrozen. */
const CLOSE_MS = 10e3

export type Engine = Omit<Migrations, 'drain'> & {
  /** Takes up what an earlier run of the daemon left; called once, when all owners have given their hooks. */
  begin(): void
}

/** Both ends of migrations over whatever does the work: the real parts are put in by `migrations.ts`, twins by the model's test. */
export async function createEngine(deps: {
  self: PeerId
  find: (nameOrId: string) => Member | undefined
  rpc: Pick<Rpc, 'request' | 'handle'>
  records: Records<Entry>
  runtimes: Pick<Runtimes, 'get'>
  carrier: Carrier
  judge: Judge
  health: Parts['health']
  clock: Clock
  timings: Timings
  /** Keeps others from freezing the container at the same time. */
  claim?: Claim | undefined
  log: Log
}): Promise<Engine> {
  const { self, find, rpc, runtimes, carrier, judge, health, clock, timings, log } = deps
  const journal = createJournal({ records: deps.records })
  const owners: MoveHooks[] = []
  const stop = new AbortController()
  const under = new Set<Promise<unknown>>()
  const parts: Parts = {
    self,
    journal,
    rpc,
    carrier,
    judge,
    health,
    clock,
    timings,
    log,
    signal: stop.signal,
    runtime: (name) => runtimes.get(name),
    hooksFor: (labels) => owners.find((owner) => owner.owns(labels)),
    track(work) {
      under.add(work)
      const end = (): boolean => under.delete(work)
      work.then(end, end)
    },
  }
  const left = await journal.load()
  const source = createSource(parts)
  const target = createTarget(parts)

  const known = (id: string): Entry => {
    const entry = journal.get(id)
    if (!entry) throw new ShoalError('NOT_FOUND', `no migration ${id.slice(0, 80)}`)
    return entry
  }

  return {
    begin() {
      for (const entry of left) (entry.role === 'source' ? source : target).recover(entry)
      target.sweep()
    },
    async start(request) {
      const to = find(request.to)
      if (!to) throw new ShoalError('NOT_FOUND', `no node ${request.to} is known`)
      if (to.id === self) throw new ShoalError('UNFIT', 'it is on this node already')
      // A suspect may only be busy, and is asked patiently.
      if (to.state === 'dead' || to.state === 'left')
        throw new ShoalError('UNFIT', `node ${to.name} is ${to.state}`)
      const runtime = await parts.runtime(request.runtime)
      const container = await runtime.inspect(request.container, stop.signal)
      if (container.state !== 'running') {
        throw new ShoalError('UNFIT', `${container.name} is ${container.state}: only what runs can be moved`)
      }
      const release = deps.claim?.(request.runtime, container.id, 'moved')
      try {
        return migrationOf(await source.start(request, container, to))
      } finally {
        // By now the journal tells that it is moving.
        release?.()
      }
    },
    get(id) {
      const entry = journal.get(id)
      return entry && migrationOf(entry)
    },
    list: () => journal.list().map(migrationOf),
    ended(id, signal) {
      const entry = known(id)
      return new Promise<Migration>((resolve, reject) => {
        const done = (): void => {
          unsubscribe()
          signal.removeEventListener('abort', onAbort)
        }
        const see = (migration: Migration): void => {
          if (migration.id !== id || migration.state === 'running') return
          done()
          resolve(migration)
        }
        const onAbort = (): void => {
          done()
          reject(new ShoalError('ABORTED', 'not waited for any longer', { cause: signal.reason }))
        }
        const unsubscribe = journal.onChange(see)
        signal.addEventListener('abort', onAbort)
        if (signal.aborted) onAbort()
        see(migrationOf(entry))
      })
    },
    async cancel(id) {
      const entry = known(id)
      if (entry.role !== 'source')
        throw new ShoalError('BUSY', `it is called off where it comes from, on node ${entry.from}`)
      await source.cancel(entry)
      return migrationOf(known(id))
    },
    async decide(id, side) {
      const entry = known(id)
      await (entry.role === 'source' ? source : target).decide(entry, side)
      return migrationOf(known(id))
    },
    onChange: (listener) => journal.onChange(listener),
    hooks: (hooks) => void owners.push(hooks),
    async close() {
      stop.abort(new ShoalError('ABORTED', 'the daemon is stopping'))
      const waited = new AbortController()
      await Promise.race([Promise.allSettled(under), clock.sleep(CLOSE_MS, waited.signal)])
      waited.abort()
    },
  }
}
