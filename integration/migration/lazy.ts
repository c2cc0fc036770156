import type { Records } from '../../blockstore/index.ts'
import type { Manager, RpcHandler } from '../../manager/index.ts'
import { type Entry, isEnded } from './entry.ts'
import { METHODS } from './messages.ts'
import type { createMigrations } from './migrations.ts'
import type { Migration, MoveHooks } from './types.ts'

type Made = Awaited<ReturnType<typeof createMigrations>>

/** Migrations that are loaded when somebody asks for them, another node offers one, or one was left under way. */
export interface LazyMigrations {
  get(): Promise<Made>
  /** Hears of changes without having them loaded. */
  onChange(listener: (migration: Migration) => void): () => void
  /** What the owner of a container does about its moving, without having them loaded. */
  hooks(hooks: MoveHooks): void
  /** Takes up what an earlier run of the daemon left; called when all owners have given their hooks. */
  begin(): Promise<void>
  close(): Promise<void>
}

/** @param make given an RPC whose handlers are those that peers reach */
export function createLazyMigrations(deps: {
  rpc: Manager['rpc']
  records: Records<Entry>
  make: (rpc: Pick<Manager['rpc'], 'request' | 'handle'>) => Promise<Made>
}): LazyMigrations {
  const { rpc, records, make } = deps
  const handlers = new Map<string, RpcHandler>()
  const owners: MoveHooks[] = []
  const listeners = new Set<(migration: Migration) => void>()
  let made: Promise<Made> | undefined

  async function load(): Promise<Made> {
    const migrations = await make({
      request: (...args) => rpc.request(...args),
      handle: (method, handler) => void handlers.set(method, handler),
    })
    migrations.onChange((migration) => {
      for (const listener of listeners) listener(migration)
    })
    for (const owner of owners) migrations.hooks(owner)
    migrations.begin()
    return migrations
  }

  const get = (): Promise<Made> => {
    made ??= load()
    made.catch(() => {
      made = undefined
    })
    return made
  }

  for (const method of Object.values(METHODS)) {
    rpc.handle(method, async (peer, body, signal) => {
      await get()
      return handlers.get(method)?.(peer, body, signal)
    })
  }

  return {
    get,
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    hooks(hooks) {
      owners.push(hooks)
      void made?.then(
        (migrations) => migrations.hooks(hooks),
        () => {},
      )
    },
    async begin() {
      for await (const [, entry] of records.entries()) {
        if (!isEnded(entry)) return void (await get())
      }
    },
    async close() {
      await (await made)?.close()
    },
  }
}
