import type { Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager } from '../../manager/index.ts'
import type { Migrations, MoveHooks } from '../migration/types.ts'
import type { NodeOptions } from './node/index.ts'
import { canRunPods } from './runtimes.ts'
import { createTalk, type Talk } from './talk.ts'

/** As the executor writes them on its containers. */
const OWNED = ['shoal.app', 'shoal.manager']
const METHODS = ['facts', 'ensure', 'remove', 'reports', 'move']

type Node = Awaited<ReturnType<typeof import('./node/index.ts')['startNode']>>

/** The executor of a node, loaded when a manager first asks for it, or when pods were left here. */
export interface LazyNode {
  readonly talk: Talk
  /** For migrations, which may ask before anything else does. */
  readonly hooks: MoveHooks
  close(): Promise<void>
}

export function createLazyNode(deps: {
  config: NodeOptions['config']
  registry: string
  manager: Manager
  store: BlockStore
  migrations?: () => Promise<Migrations>
  log: Log
}): LazyNode {
  const { config, store, manager, log } = deps
  const able = canRunPods(config.sockets)
  const talk = createTalk({ self: manager.self.id, rpc: manager.rpc })
  talk.handle('ping', async () => undefined)
  let made: Promise<Node> | undefined
  let closed = false

  function node(): Promise<Node> {
    made ??= import('./node/index.ts').then(({ startNode }) => startNode({ ...deps, talk }))
    made.catch(() => {
      made = undefined
    })
    return made
  }

  async function takeUp(): Promise<void> {
    // The name of its table: loading the executor to learn it would be what is to be spared.
    for await (const _ of store.records('offload-pods').entries()) {
      if (!closed) await node()
      return
    }
  }

  if (able) {
    talk.lazily(METHODS, node)
    takeUp().catch((error) => log.error({ err: error }, 'the pods of this node are not taken up'))
  }
  const hooks = async (): Promise<MoveHooks> => (await node()).executor.hooks

  return {
    talk,
    hooks: {
      owns: (labels) => able && OWNED.every((label) => labels[label] !== undefined),
      prepare: async (...args) => (await hooks()).prepare(...args),
      arrived: async (...args) => (await hooks()).arrived(...args),
      discarded: async (...args) => (await hooks()).discarded(...args),
      left: async (...args) => (await hooks()).left(...args),
    },
    async close() {
      closed = true
      await (await made?.catch(() => undefined))?.close()
    },
  }
}
