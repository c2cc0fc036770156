import { ShoalError } from '../../base/index.ts'
import type { Container, Migration, Migrations, Platform } from '../../integration/index.ts'
import { standInPlatform } from './platform-twin.ts'

export const MIGRATION: Migration = {
  id: 'm1',
  role: 'source',
  container: { id: 'c0ffee', name: 'redis', runtime: 'containerd' },
  from: 'a',
  to: 'b',
  state: 'done',
  phase: 'ended',
  downtimeMs: 420,
  restoredAt: 8500,
  startedAt: 1,
  endedAt: 9000,
  rounds: [
    { frozen: false, seconds: 2.5, changed: 160e6, sent: 12e6 },
    { frozen: true, seconds: 0.42, changed: 4e6, sent: 3e5 },
  ],
  reason: undefined,
}

/** A platform with one container, and a migration of it that is as it is told to be. */
export function standInMigrations(given: { migration?: Partial<Migration>; left?: string } = {}): Platform {
  let known: Migration[] = []
  const migrations: Migrations = {
    async start(request) {
      if (request.to !== 'edge-2') throw new ShoalError('NOT_FOUND', `no node ${request.to} is known`)
      const started: Migration = { ...MIGRATION, state: 'running', phase: 'checking', rounds: [] }
      known = [{ ...MIGRATION, ...given.migration }]
      return started
    },
    get: (id) => known.find((each) => each.id === id),
    list: () => known,
    ended: async () => MIGRATION,
    async cancel(id) {
      const found = known.find((each) => each.id === id)
      if (!found) throw new ShoalError('NOT_FOUND', `no migration ${id}`)
      if (found.state !== 'running')
        throw new ShoalError('BUSY', 'it is too late to call it off: it has ended')
      known = [{ ...found, state: 'called-off', phase: 'ended' }]
      return found
    },
    async decide(id) {
      const found = known.find((each) => each.id === id)
      if (!found) throw new ShoalError('NOT_FOUND', `no migration ${id}`)
      if (found.state !== 'undecided') throw new ShoalError('BUSY', 'there is nothing to decide: it is ended')
      known = [{ ...found, state: 'rolled-back', phase: 'ended' }]
      return found
    },
    drain: async () => ({
      moved: [MIGRATION],
      left: given.left === undefined ? [] : [{ container: 'vm', reason: given.left }],
    }),
    onChange: () => () => {},
    hooks: () => {},
    close: async () => {},
  }
  return standInPlatform({
    runtimes: {
      list: () => ['containerd'],
      get: async () => Promise.reject(new ShoalError('NOT_FOUND', 'no such runtime')),
      async find(container) {
        if (container !== 'redis')
          throw new ShoalError('NOT_FOUND', `no container ${container} in containerd`)
        return { id: 'c0ffee', name: 'redis', runtime: 'containerd' } as Container
      },
      close: async () => {},
    },
    migrations: async () => migrations,
  })
}
