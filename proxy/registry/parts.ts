import type { Log } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Manager } from '../../manager/types.ts'
import { createImages, type Images } from '../images.ts'
import type { Credential, OfflinePolicy, RepositoryRef, Upstream } from '../types.ts'
import { createAccess } from './access.ts'
import { type Ask, createAskHead } from './ask.ts'
import { createServeBlob, type ServeBlob } from './blobs.ts'
import { createGate, type Gate } from './gate.ts'
import { createLinks } from './links.ts'
import { createServeTags } from './lists.ts'
import { createManifests, type Manifests } from './manifests.ts'
import { createServeReferrers } from './referrers.ts'
import { createTags } from './tags.ts'

export interface ProxyConfig {
  /** How long a tag's digest is used without asking upstream again. Default 30 s. */
  tagTtlMs?: number
  /** How long a client that upstream let in is not checked again. Default 5 min, about a registry token's life. */
  entitlementTtlMs?: number
  /** Default `known`. */
  offline?: OfflinePolicy
  /** Longest that a client waits for headers; then it gets 503. Default 8 s. */
  patienceMs?: number
  /** The upstream of names without one. Default docker.io. */
  defaultHost?: string
  /** Secret of the cluster, derived from its key: credentials are known to its nodes by their HMAC under it. */
  credentialSalt: string | Uint8Array
}

export interface ProxyDependencies {
  manager: Manager
  store: BlockStore
  upstream: Upstream
  config: ProxyConfig
  log: Log
  /** ms since the epoch; for tests. */
  now?: () => number
}

/** The proxy's parts behind its HTTP surface, for those who pull without HTTP. */
export interface ProxyParts {
  readonly manager: Manager
  readonly upstream: Upstream
  readonly gate: Gate
  readonly manifests: Manifests
  readonly images: Images
  readonly serveBlob: ServeBlob
  readonly serveTags: ReturnType<typeof createServeTags>
  readonly serveReferrers: ReturnType<typeof createServeReferrers>
  readonly patienceMs: number
  readonly defaultHost: string
  /** `via`: the nodes that the question came through before this one. */
  ask(
    ref: RepositoryRef,
    credential: Credential,
    options: { via?: string[]; accept?: string | undefined; signal: AbortSignal },
  ): Promise<Ask>
  sweep(): Promise<void>
}

export function createParts(dependencies: ProxyDependencies): ProxyParts {
  const { manager, store, upstream, config, log, now = Date.now } = dependencies
  const { tagTtlMs = 30_000, entitlementTtlMs = 300_000, patienceMs = 8_000 } = config
  const { hints, storing } = manager
  const self = manager.self.id
  // Half of the patience for asking upstream leaves the other half for neighbours.
  const head = createAskHead({ upstream, timeoutMs: Math.round(patienceMs / 2) })
  const access = createAccess({
    store,
    hints,
    storing,
    upstream,
    salt: config.credentialSalt,
    policy: config.offline ?? 'known',
    ttlMs: entitlementTtlMs,
    log,
    now,
  })
  const links = createLinks({ store, log, now })
  const gate = createGate({ head, access, links, hints, storing, log })
  const tags = createTags({
    store,
    hints,
    storing,
    holds: (digest) => manager.holds(digest),
    head,
    access,
    gate,
    links,
    ttlMs: tagTtlMs,
    log,
    now,
  })
  const images = createImages({ store, now })
  const manifests = createManifests({ manager, store, upstream, tags, gate, links, images, log, now })
  return {
    manager,
    upstream,
    gate,
    manifests,
    images,
    serveBlob: createServeBlob({ manager, store, upstream, head, gate }),
    serveTags: createServeTags({ upstream, gate, tags, patienceMs, now }),
    serveReferrers: createServeReferrers({ upstream, gate, links, manifests, patienceMs }),
    patienceMs,
    defaultHost: config.defaultHost ?? 'docker.io',
    async ask(ref, credential, { via = [], accept, signal }) {
      const subject = await access.subjectOf(ref.host, credential)
      return { ref, credential, subject, via: [...via, self], accept, signal }
    },
    async sweep() {
      await access.sweep()
      await links.sweep()
    },
  }
}
