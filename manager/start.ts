import type { Log } from '../base/index.ts'
import type { BlockStore } from '../blockstore/index.ts'
import { createManager } from './manager.ts'
import { createNetwork, type EncrypterName } from './network/index.ts'
import type { StoringOptions } from './storing/index.ts'
import type { Manager } from './types.ts'
import { createBucket, createExchange, createRpc } from './wire/index.ts'

export interface ManagerOptions {
  /** Holds the node's identity and, where no file is given, the cluster key. */
  dataDir: string
  store: BlockStore
  /** Multiaddrs. */
  listen: string[]
  bootstrap: string[]
  name: string
  site: string
  clusterKeyFile?: string
  encrypter?: EncrypterName
  mdns?: boolean
  /** Bytes a second, to peers and from peers and upstream together; undefined: no limit. */
  uploadRate?: number
  downloadRate?: number
  /** HOST:PORT of the registry and the API where they are not on loopback only. */
  registry?: string
  api?: string
  storing: StoringOptions
  log: Log
}

/**
 * The distribution manager with its network: identity, admission, membership, RPC and block exchange.
 * @throws CONFIG for a bad key, identity or address, and whatever listening throws
 */
export async function startManager(options: ManagerOptions): Promise<Manager> {
  const { store, log } = options
  const network = await createNetwork({
    dataDir: options.dataDir,
    listen: options.listen,
    mdns: options.mdns ?? false,
    log,
    ...(options.clusterKeyFile === undefined ? {} : { clusterKeyFile: options.clusterKeyFile }),
    ...(options.encrypter === undefined ? {} : { encrypter: options.encrypter }),
  })
  const { node, identity } = network
  const closers: (() => Promise<unknown>)[] = [() => network.close()]
  const close = async (): Promise<void> => {
    for (const closer of closers.reverse()) {
      await closer().catch((error) =>
        log.warn({ error: String(error) }, 'a part of the network did not close'),
      )
    }
  }
  try {
    const rpc = await createRpc({ node, log })
    closers.push(() => rpc.close())
    const download = createBucket({ rate: options.downloadRate })
    const exchange = await createExchange({
      node,
      download,
      provide: (cid, _signal, into) => store.read(cid, into ? { into } : {}),
      limits: { uploadRate: options.uploadRate },
      log,
    })
    closers.push(() => exchange.close())
    const members = network.join({
      rpc,
      name: options.name,
      site: options.site,
      bootstrap: options.bootstrap,
      ...(options.registry === undefined ? {} : { registry: options.registry }),
      ...(options.api === undefined ? {} : { api: options.api }),
    })
    closers.push(() => members.leave())
    const manager = createManager({
      members,
      rpc,
      exchange,
      signer: { ...identity, id: identity.peerId },
      store,
      mayReceive: (bytes, priority) =>
        new Promise((resolve) => {
          if (download.take(bytes, priority, resolve)) resolve()
        }),
      storing: options.storing,
      isConnected: (peer) => node.getConnections().some((open) => open.remotePeer.toString() === peer),
      log,
    })
    return {
      ...manager,
      async close() {
        await manager.close()
        await close()
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}
