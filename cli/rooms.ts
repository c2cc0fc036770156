import type { IncomingMessage, RequestListener } from 'node:http'
import type { Digest, Log } from '../base/index.ts'
import type { BlockStore } from '../blockstore/index.ts'
import type { Platform } from '../integration/index.ts'
import type { Manager } from '../manager/index.ts'
import type { Hosted, Login, Upstream } from '../proxy/index.ts'
import type { HostPort } from './address.ts'
import type { ImageInfo, ImagePins, LocalRepositoryInfo, PullImage, UpstreamHealth } from './api/index.ts'
import type { Config } from './config.ts'
import type { Collect } from './store-room.ts'

/** What the daemon is put together of. */
export interface Parts {
  config: Config
  /** Where registry and API really listen. */
  addresses: { registry: HostPort; api: HostPort }
  log: Log
}

/**
 * The seam between the daemon and the rooms: each builds one part out of the configuration and the parts before it. Tests
 * give their own; `serve` gives those of the rooms.
 */
export interface Rooms {
  openStore(parts: Parts): Promise<BlockStore>
  createManager(parts: Parts & { store: BlockStore }): Promise<Manager>
  createUpstream(parts: Parts): Promise<Upstream>
  /** What the registry endpoint serves, and what the API asks of the proxy. */
  createProxy(
    parts: Parts & {
      store: BlockStore
      manager: Manager
      upstream: Upstream
      /** Throws UNAUTHORIZED or DENIED for a client that may not push. */
      authorize: (request: IncomingMessage) => void
      /** Throws UNAUTHORIZED for a client without the token, wherever it is. */
      needToken: (request: IncomingMessage) => void
      /** Who has to log in, and with what. */
      login: Login
    },
  ): Promise<ProxyRoom>
  /** What else may serve from here, beside the store's own blocks. */
  followContent(parts: Parts & { store: BlockStore; manager: Manager }): Promise<{ close(): Promise<void> }>
  /** Checkpoints, migrations and offload on this machine's runtimes. */
  createPlatform(parts: Parts & { store: BlockStore; manager: Manager; proxy: ProxyRoom }): Promise<Platform>
}

export interface ProxyRoom {
  listener: RequestListener
  pull: PullImage
  images: () => Promise<ImageInfo[]>
  pins: ImagePins
  repair: (digest: Digest) => void
  /** The repositories of `local/`, or one of them. */
  local: (name?: string) => Promise<LocalRepositoryInfo[]>
  collect: Collect
  /** The name that an image is stored under. @throws NAME_INVALID | DIGEST_INVALID */
  storedName: (reference: string) => string
  upstreams?: () => UpstreamHealth[]
  /** Gives the registry's pseudo host for checkpoints its content. */
  host: (hosted: Hosted) => void
  close(): Promise<void>
}
