import { join } from 'node:path'
import { type Log, ShoalError } from '../base/index.ts'
import type { BlockStore } from '../blockstore/index.ts'
import type { Manager } from '../manager/index.ts'
import type { Hosted } from '../proxy/index.ts'
import type { Collect } from './checkpoint/base-image.ts'
import { createLazyCheckpoints } from './checkpoint/lazy.ts'
import type { Checkpoints } from './checkpoint/types.ts'
import { createClaims } from './claims.ts'
import type { Mec, MecConfig } from './mec/index.ts'
import type { Entry } from './migration/entry.ts'
import { createLazyMigrations } from './migration/lazy.ts'
import type { Migration, Migrations } from './migration/types.ts'
import { createLazyNode } from './offload/lazy.ts'
import type { PodSockets } from './offload/runtimes.ts'
import type { Offload } from './offload/types.ts'
import { createRuntimes, type Runtimes } from './runtime/index.ts'
import type { States } from './state/types.ts'

export interface PlatformDependencies {
  config: {
    /** Of the daemon; what a part keeps as files goes into a directory of its own below. */
    dataDir: string
    /** Sockets of runtimes, where there are any. */
    containerd?: string
    docker?: string
    /** runc's state directory. */
    runc?: string
    /** Cgroup below which applications' pods get theirs. */
    podCgroup: string
    /** Which of them runs these; default: containerd before docker. */
    podRuntime?: 'containerd' | 'docker'
    /** The MEC API of this node, and the next manager up; absent: off. */
    mec?: MecConfig & { next?: string }
  }
  /** Where runtimes of this machine pull from, HOST:PORT. */
  registry: string
  manager: Manager
  store: BlockStore
  /** What an image is made of, by the proxy. */
  collect: Collect
  /** The name that an image is stored under. @throws NAME_INVALID | DIGEST_INVALID */
  storedName: (reference: string) => string
  /** Gives the registry's pseudo host `checkpoints` its content. */
  host: (hosted: Hosted) => void
  /** Follows from the cluster's key: what all nodes of the cluster know and nobody else does. */
  secret: Uint8Array
  log: Log
}

/** What plugs the swarm into this machine's runtimes: made once, by `serve`; every part loads what it needs when it is first used. */
export interface Platform {
  readonly runtimes: Runtimes
  /** Loaded when first asked for. */
  checkpoints(): Promise<Checkpoints>
  /** Loaded when first asked for. */
  migrations(): Promise<Migrations>
  /** Hears of every change of a migration of this node. Returns the unsubscriber. */
  onMigration(listener: (migration: Migration) => void): () => void
  /** Undefined where it is off. */
  mec?: Mec
  close(): Promise<void>
}

/** @throws CONFIG */
function podSockets({ containerd, docker, podRuntime }: PlatformDependencies['config']): PodSockets {
  const all = { containerd, docker }
  if (podRuntime === undefined) return all
  if (all[podRuntime] === undefined)
    throw new ShoalError(
      'CONFIG',
      `there is no ${podRuntime} to run pods: name its socket by --${podRuntime}`,
    )
  return { [podRuntime]: all[podRuntime] }
}

/** @throws CONFIG */
export async function createPlatform(dependencies: PlatformDependencies): Promise<Platform> {
  const { config, registry, manager, store, collect, host, secret, log } = dependencies
  const { dataDir, containerd, docker, runc } = config
  const sockets = podSockets(config)
  const closers: (() => Promise<void>)[] = []
  const runtimes = createRuntimes({
    ...(containerd === undefined ? {} : { containerd: { address: containerd } }),
    ...(docker === undefined ? {} : { docker: { socket: docker } }),
    ...(runc === undefined ? {} : { runc: { root: runc } }),
    registry,
    dir: join(dataDir, 'runtimes'),
    log,
  })
  closers.push(() => runtimes.close())

  let made: Promise<States> | undefined
  const states = (): Promise<States> => {
    made ??= import('./state/index.ts').then(({ createStates }) => {
      const created = createStates({ manager, store, dir: join(dataDir, 'states'), log })
      closers.push(() => created.close())
      return created
    })
    return made
  }
  // What was captured in an earlier run must not be evicted before somebody asks for it again.
  if (await (await import('./state/index.ts')).wereStatesHeld(store)) await states()

  const claim = createClaims()
  const checkpoints = createLazyCheckpoints({
    records: manager.records,
    store,
    log,
    async make() {
      const { createCheckpoints } = await import('./checkpoint/checkpoints.ts')
      const dir = join(dataDir, 'checkpoints')
      return createCheckpoints({
        manager,
        store,
        states: await states(),
        runtimes,
        collect,
        secret,
        dir,
        log,
        claim,
        isMoving: async (runtime, id) =>
          (await migrations.get())
            .list()
            .some(
              ({ role, state, container }) =>
                role === 'source' &&
                (state === 'running' || state === 'undecided') &&
                container.runtime === runtime &&
                container.id === id,
            ),
      })
    },
  })
  host(checkpoints.served)

  const migrations = createLazyMigrations({
    rpc: manager.rpc,
    records: store.records<Entry>('migrations'),
    async make(rpc) {
      const { createMigrations } = await import('./migration/migrations.ts')
      const { createBaseImages } = await import('./checkpoint/base-image.ts')
      return createMigrations({
        dataDir,
        manager,
        rpc,
        store,
        states: await states(),
        runtimes,
        log,
        claim,
        findImage: createBaseImages({ collect, manager, log }).find,
        checkpoints: { create: async (request) => (await checkpoints.get()).create(request) },
      })
    },
  })
  const node = createLazyNode({
    config: { dataDir, sockets, podCgroup: config.podCgroup },
    registry,
    manager,
    store,
    migrations: () => migrations.get(),
    log,
  })
  migrations.hooks(node.hooks)
  // A container that a dead daemon left frozen waits for this.
  migrations.begin().catch((error) => log.error({ error: String(error) }, 'migrations are not taken up'))

  const { mec, offload } = config.mec === undefined ? {} : await startMec(config.mec)

  return {
    runtimes,
    ...(mec === undefined ? {} : { mec }),
    checkpoints: () => checkpoints.get(),
    migrations: () => migrations.get(),
    onMigration: (listener) => migrations.onChange(listener),
    async close() {
      // What uses something is closed before it.
      for (const part of [mec, offload, node, migrations, checkpoints]) await part?.close()
      for (const close of closers.reverse()) await close()
    },
  }

  async function startMec(own: NonNullable<typeof config.mec>): Promise<{ mec: Mec; offload: Offload }> {
    const [{ createOffload }, { createMec }] = await Promise.all([
      import('./offload/index.ts'),
      import('./mec/index.ts'),
    ])
    const offload = await createOffload({
      manager,
      store,
      talk: node.talk,
      next: own.next,
      log,
      images: { collect, storedName: dependencies.storedName },
    })
    const { members, rpc, records } = manager
    const table = <T>(name: string) => store.records<T>(name)
    try {
      const mec = await createMec({ offload, members, rpc, records, table, config: own, log })
      return { mec, offload }
    } catch (error) {
      await offload.close()
      throw error
    }
  }
}
