import { join } from 'node:path'
import type { Log } from '../../../base/index.ts'
import type { BlockStore } from '../../../blockstore/index.ts'
import type { Manager } from '../../../manager/index.ts'
import type { Migrations } from '../../migration/types.ts'
import { admit, createMeasures } from '../measures.ts'
import { readOrder } from '../messages.ts'
import { openPodRuntime, type PodSockets } from '../runtimes.ts'
import type { Talk } from '../talk.ts'
import { createNodeExecutor, type NodeExecutor } from './executor.ts'
import { LABELS } from './labels.ts'
import { createPodLogs } from './logs.ts'
import { openRows } from './rows.ts'
import { serveExecutor } from './serve.ts'

const ASK_MS = 5000

export interface NodeOptions {
  config: {
    dataDir: string
    /** At least one. */
    sockets: PodSockets
    /** Cgroup below which pods get theirs. */
    podCgroup: string
  }
  /** Where runtimes of this machine pull from, HOST:PORT. */
  registry: string
  manager: Manager
  store: BlockStore
  talk: Talk
  migrations?: () => Promise<Migrations>
  log: Log
}

/** This node's executor over its container runtime, and the answers to its managers. */
export async function startNode(
  options: NodeOptions,
): Promise<{ executor: NodeExecutor; close(): Promise<void> }> {
  const { config, registry, manager, store, talk, migrations, log } = options
  const dir = join(config.dataDir, 'offload')
  const self = manager.self.id
  const [rows, logs, runtime] = await Promise.all([
    openRows(store),
    createPodLogs({ dir: join(dir, 'logs') }),
    openPodRuntime(config.sockets, {
      registry,
      dir,
      cgroupParent: config.podCgroup,
      mine: { label: LABELS.node, value: self },
      log,
    }),
  ])
  const { driver, network } = runtime
  const executor = createNodeExecutor({
    self,
    rows,
    driver,
    network,
    address: () => addressOf(manager.self.addrs),
    logFile: logs.file,
    dropLog: logs.drop,
    admit: (order, others) => admit(others, order.spec),
    askOrder: async (peer, ref, signal) =>
      readOrder(await talk.ask(peer, 'order', ref, { signal, timeoutMs: ASK_MS })),
    ...(migrations === undefined ? {} : { migrations }),
    log,
  })
  const measures = createMeasures({
    manager,
    talk,
    store,
    dataDir: config.dataDir,
    reserved: () => executor.reserved(),
    unfit: (signal) => driver.unfit(signal),
  })
  const served = serveExecutor({ talk, executor, measures, log })
  return {
    executor,
    async close() {
      served.close()
      logs.close()
      await executor.close()
      runtime.close()
    },
  }
}

/** The first address of the node that others can use, of its multiaddrs. */
export function addressOf(addrs: string[]): string {
  for (const addr of addrs) {
    const [, kind, host = ''] = /^\/(ip4|ip6|dns[46]?)\/([^/]+)\//.exec(addr) ?? []
    if (kind === undefined || LOCAL.test(host)) continue
    return kind === 'ip6' ? `[${host}]` : host
  }
  return '127.0.0.1'
}

const LOCAL = /^(?:127\.|::1$|0\.0\.0\.0$|::$|169\.254\.|fe80:)/i
