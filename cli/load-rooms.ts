import { createHmac } from 'node:crypto'
import { readFile, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { formatHostPort, type HostPort, isLoopback } from './address.ts'
import type { Config } from './config.ts'
import { createImageList, createPins, createPull } from './pull-room.ts'
import type { Parts, Rooms } from './rooms.ts'
import { watchUpstream } from './upstream-health.ts'
import { readVersion } from './version.ts'

/** Waiting for a connection to upstream, for the next bytes of a body, and how often a request is tried again. */
const UPSTREAM = { connectMs: 4e3, stallMs: 4e3, retries: 3 }

/** What the nodes of a cluster share for one purpose: it follows from the cluster's key and does not tell it. */
async function clusterSecret({ config }: Parts, purpose: string): Promise<Buffer> {
  // The manager has made the key by now where none was given. White space around a key does not count.
  const key = await readFile(config.clusterKey ?? join(config.dataDir, 'cluster.key'), 'latin1')
  return createHmac('sha256', key.trim()).update(`shoal ${purpose}`).digest()
}

/** Other nodes are told of an address only where they could reach it. */
function beyondLoopback(name: 'registry' | 'api', address: HostPort): Record<string, string> {
  return isLoopback(address.host) ? {} : { [name]: formatHostPort(address) }
}

/** The disk's size changes as seldom as a quota, and so do the shares that follow from it. */
async function diskSize(dir: string): Promise<number> {
  const { blocks, bsize } = await statfs(dir)
  return blocks * bsize
}

function mecConfig(config: Config, { host, port }: HostPort) {
  const { mecCert: cert, mecKey: key, mecPlace: place, mecPackages, mecNext: next } = config
  return {
    listen: { host, port, ...(cert === undefined ? {} : { cert }), ...(key === undefined ? {} : { key }) },
    ...(place === undefined ? {} : { place }),
    ...(next === undefined ? {} : { next }),
    packageSources: mecPackages,
    version: readVersion(),
  }
}

/** The rooms as `serve` uses them. Nothing else loads them, so that a command for the daemon starts fast. */
export async function loadRooms(): Promise<Rooms> {
  const [blockstore, manager, proxy, integration] = await Promise.all([
    import('../blockstore/index.ts'),
    import('../manager/index.ts'),
    import('../proxy/index.ts'),
    import('../integration/index.ts'),
  ])
  return {
    openStore: ({ config, log }) =>
      blockstore.openBlockStore({
        dir: join(config.dataDir, 'store'),
        quota: config.quota,
        quotaLow: config.quotaLow,
        minFree: config.minFree,
        log: log.child({ room: 'blockstore' }),
      }),
    createUpstream: async ({ config, log }) =>
      proxy.createUpstream({
        config: {
          mirrors: config.upstream,
          credentials: config.credentials,
          ...(config.dockerConfig === undefined ? {} : { dockerConfig: config.dockerConfig }),
          ca: config.ca,
          ...UPSTREAM,
        },
        log: log.child({ room: 'upstream' }),
      }),
    createManager: async ({ config, addresses, store, log }) =>
      manager.startManager({
        dataDir: config.dataDir,
        store,
        listen: config.listen,
        bootstrap: config.bootstrap,
        name: config.name,
        site: config.site,
        mdns: config.mdns,
        storing: {
          offer: config.offer ?? config.quota ?? (await diskSize(config.dataDir)),
          leaveAfterMs: config.leaveDelay,
          repairRate: config.repairRate,
        },
        log: log.child({ room: 'manager' }),
        ...(config.clusterKey === undefined ? {} : { clusterKeyFile: config.clusterKey }),
        ...(config.encrypter === undefined ? {} : { encrypter: config.encrypter }),
        ...(config.uploadRate === undefined ? {} : { uploadRate: config.uploadRate }),
        ...(config.downloadRate === undefined ? {} : { downloadRate: config.downloadRate }),
        ...beyondLoopback('registry', addresses.registry),
        ...beyondLoopback('api', addresses.api),
      }),
    createProxy: async (parts) => {
      const { config, store, manager, upstream, authorize, needToken, login, log } = parts
      const watched = watchUpstream(upstream)
      const made = proxy.createProxy({
        manager,
        store,
        upstream: watched.upstream,
        push: {
          config: { dir: join(config.dataDir, 'uploads') },
          storing: manager.storing,
          authorize,
          login,
        },
        config: {
          tagTtlMs: config.tagTtl,
          entitlementTtlMs: config.entitlementTtl,
          offline: config.offline,
          localCopies: config.localCopies,
          localAck: config.localAck,
          // They know each other's credentials by their HMAC under it.
          credentialSalt: await clusterSecret(parts, 'credentials'),
        },
        log: log.child({ room: 'proxy' }),
        name: config.name,
      })
      await made.start()
      const puller = {
        pull: (options: Omit<Parameters<typeof proxy.pullImage>[0], 'parts'>) =>
          proxy.pullImage({ parts: made.parts, ...options }),
        parsePlatform: proxy.parsePlatform,
        list: () => proxy.listImages(made.parts),
      }
      return {
        listener: made.handler,
        pull: createPull(puller),
        images: createImageList(puller),
        pins: createPins(made.parts.pins),
        repair: (digest) => made.parts.repair.want(digest),
        local: (name) => proxy.listLocal(made.parts.local, name),
        collect: ({ reference, platform }, signal) =>
          proxy.collectImage({
            parts: made.parts,
            reference,
            ...(platform === undefined
              ? {}
              : { platform: platform === 'all' ? platform : proxy.parsePlatform(platform) }),
            signal,
          }),
        storedName: (reference) => proxy.storedName(reference, made.parts.defaultHost),
        upstreams: watched.health,
        host: (hosted) => made.host(hosted, needToken),
        close: () => made.close(),
      }
    },
    followContent: async ({ config, store, manager, log: parent }) => {
      const { containerdRoot: root, containerd: address, borrow } = config
      const log = parent.child({ room: 'containerd' })
      if (root !== undefined && borrow) {
        const changes = address === undefined ? undefined : integration.containerdChanges({ address, log })
        return integration.followContent({ root, store, manager, changes, log })
      }
      await integration.giveAllBack({ store, manager })
      return { close: async () => {} }
    },
    createPlatform: async (parts) => {
      const { config, addresses, store, manager, proxy: room, log } = parts
      return integration.createPlatform({
        config: {
          dataDir: config.dataDir,
          ...(config.containerd === undefined ? {} : { containerd: config.containerd }),
          ...(config.docker === undefined ? {} : { docker: config.docker }),
          ...(config.runc === undefined ? {} : { runc: config.runc }),
          podCgroup: config.podCgroup,
          ...(config.podRuntime === undefined ? {} : { podRuntime: config.podRuntime }),
          ...(config.mec === undefined ? {} : { mec: mecConfig(config, config.mec) }),
        },
        registry: formatHostPort(addresses.registry),
        store,
        manager,
        collect: (reference, signal) => room.collect({ reference, copies: 1 }, signal),
        storedName: room.storedName,
        host: room.host,
        secret: await clusterSecret(parts, 'checkpoints'),
        log: log.child({ room: 'integration' }),
      })
    },
  }
}
