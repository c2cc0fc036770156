import type { Log } from '../base/index.ts'
import type { BlockStore } from '../blockstore/index.ts'
import type { Manager } from '../manager/index.ts'

export interface PlatformDependencies {
  config: {
    /** Of the daemon; what a part keeps as files goes into a directory of its own below. */
    dataDir: string
    /** Sockets of runtimes, where there are any. */
    containerd?: string
    docker?: string
  }
  /** Where runtimes of this machine pull from, HOST:PORT. */
  registry: string
  manager: Manager
  store: BlockStore
  log: Log
}

/** What plugs the swarm into this machine's runtimes: made once, by `serve`; every part loads what it needs when it is first used. */
export interface Platform {
  close(): Promise<void>
}

export async function createPlatform(_dependencies: PlatformDependencies): Promise<Platform> {
  const closers: (() => Promise<void>)[] = []
  return {
    async close() {
      for (const close of closers.reverse()) await close()
    },
  }
}
