import type { Libp2p, PeerInfo } from '@libp2p/interface'
import type { Log } from '../../base/index.ts'
import type { Rpc } from '../types.ts'
import { createActivity } from './activity.ts'
import { dialableAddresses, listeningAddresses } from './addresses.ts'
import { parseBootstrap } from './bootstrap.ts'
import { loadClusterKey } from './clusterkey.ts'
import { type Identity, loadIdentity } from './identity.ts'
import { createLinks } from './links.ts'
import { createMembership, type MembershipControl } from './membership/membership.ts'
import { createNode, type EncrypterName } from './node.ts'

export interface NetworkOptions {
  dataDir: string
  /** TCP multiaddrs. */
  listen: string[]
  /** Default: `cluster.key` in the data directory, made on the first start. */
  clusterKeyFile?: string
  encrypter?: EncrypterName
  mdns?: boolean
  log: Log
}

export interface JoinOptions {
  rpc: Rpc
  name: string
  site: string
  /** See `parseBootstrap`. */
  bootstrap: string[]
  /** HOST:PORT, where they are not on loopback only. */
  registry?: string
  api?: string
}

export interface Network {
  node: Libp2p
  identity: Identity
  clusterKeyPath: string
  /** Where others can dial this node, without `/p2p/ID`; read anew from the interfaces. */
  addresses(): string[]
  /**
   * Enters the cluster; once, after all RPC handlers are in place. The caller calls `leave` before `close`.
   *
   * @throws CONFIG for a malformed bootstrap address
   */
  join(options: JoinOptions): MembershipControl
  /** Stops the node. */
  close(): Promise<void>
}

/**
 * Identity, cluster key and libp2p node of a daemon, wired together. The RPC is made on `node` by the caller and given to `join`.
 *
 * @throws CONFIG for a bad key or identity, and whatever listening throws
 */
export async function createNetwork(options: NetworkOptions): Promise<Network> {
  const { dataDir, listen, clusterKeyFile, encrypter, mdns = false, log } = options
  const identity = await loadIdentity(dataDir)
  const clusterKey = await loadClusterKey({
    directory: dataDir,
    ...(clusterKeyFile === undefined ? {} : { file: clusterKeyFile }),
  })
  if (clusterKey.created) {
    log.info({ path: clusterKey.path }, 'made a new cluster key; nodes that have a copy of it form a cluster')
  }
  const activity = createActivity()
  const node = await createNode({
    privateKey: identity.privateKey,
    clusterKey: clusterKey.key,
    listen,
    track: activity.track,
    mdns,
    ...(encrypter === undefined ? {} : { encrypter }),
  })
  const links = createLinks({ node, activity, log })

  const addresses = (): string[] => {
    const bound = node.getMultiaddrs().map((address) => address.toString())
    return dialableAddresses(listeningAddresses(listen, bound))
  }

  return {
    node,
    identity,
    clusterKeyPath: clusterKey.path,
    addresses,
    join({ rpc, name, site, bootstrap, registry, api }) {
      const membership = createMembership({
        links,
        rpc,
        self: {
          id: identity.peerId,
          name,
          site,
          addrs: addresses(),
          ...(registry === undefined ? {} : { registry }),
          ...(api === undefined ? {} : { api }),
        },
        bootstrap: bootstrap.map((text) => parseBootstrap(text, log)),
        addresses,
        log,
      })
      if (mdns) {
        node.addEventListener('peer:discovery', ({ detail }: CustomEvent<PeerInfo>) => {
          const addrs = detail.multiaddrs.map((address) => address.toString())
          if (addrs.length > 0) membership.hint(addrs, detail.id.toString())
        })
      }
      return membership
    },
    async close() {
      links.close()
      await node.stop()
    },
  }
}
