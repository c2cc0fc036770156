import { createHmac } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ShoalError } from '../base/index.ts'
import { createImageList, createPull } from './pull-room.ts'
import type { Parts, Rooms } from './rooms.ts'

/** Waiting for a connection to upstream, for the next bytes of a body, and how often a request is tried again. */
const UPSTREAM = { connectMs: 10e3, stallMs: 15e3, retries: 4 }

/** Secret that the nodes of a cluster share, so that they know each other's credentials by their HMAC under it. */
async function credentialSalt({ config }: Parts): Promise<Buffer> {
  // The manager has made the key by now where none was given. White space around a key does not count.
  const key = await readFile(config.clusterKey ?? join(config.dataDir, 'cluster.key'), 'latin1')
  return createHmac('sha256', key.trim()).update('shoal credentials').digest()
}

/** The rooms as `serve` uses them. Nothing else loads them, so that a command for the daemon starts fast. */
export async function loadRooms(): Promise<Rooms> {
  const [blockstore, proxy] = await Promise.all([
    import('../blockstore/index.ts'),
    import('../proxy/index.ts'),
  ])
  return {
    openStore: ({ config, log }) =>
      blockstore.openBlockStore({
        dir: join(config.dataDir, 'store'),
        quota: config.quota,
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
    createManager: async () => {
      throw new ShoalError('INTERNAL', 'the distribution manager is not wired yet')
    },
    createProxy: async (parts) => {
      const { config, store, manager, upstream, log } = parts
      const made = proxy.createProxy({
        manager,
        store,
        upstream,
        config: {
          tagTtlMs: config.tagTtl,
          entitlementTtlMs: config.entitlementTtl,
          offline: config.offline,
          credentialSalt: await credentialSalt(parts),
        },
        log: log.child({ room: 'proxy' }),
        name: config.name,
      })
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
        close: () => made.close(),
      }
    },
  }
}
