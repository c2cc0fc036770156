import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Manager } from '../../manager/types.ts'
import { createImages, type Images } from '../images.ts'
import {
  createLocalPulling,
  createLocalRepository,
  createPresent,
  createServeLocalReferrers,
  createServeLocalTags,
  type LocalRepository,
  type Present,
} from '../local/index.ts'
import { createPins, type Pins } from '../pins.ts'
import type { AckPolicy } from '../push/index.ts'
import { createRepair, type Repair } from '../repair.ts'
import type { Credential, OfflinePolicy, RepositoryRef, Upstream } from '../types.ts'
import { createAccess } from './access.ts'
import { type Ask, createAskHead } from './ask.ts'
import { createServeBlob, type ServeBlob } from './blobs.ts'
import { createGate, type Gate } from './gate.ts'
import { createLinks } from './links.ts'
import { createServeTags } from './lists.ts'
import { createManifests, type Manifests } from './manifests.ts'
import { LOCAL_HOST } from './names.ts'
import { shareOutages } from './outages.ts'
import { createServeReferrers } from './referrers.ts'
import { createTags, type Tags } from './tags.ts'

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
  /** Nodes that have every block and record of a pushed image, or all where there are fewer. Default 2. */
  localCopies?: number
  /** What has to be done before a push is acknowledged. Default `quorum`. */
  localAck?: AckPolicy
}

export interface ProxyDependencies {
  /** A blob in the store that belongs to a pseudo host alone; see Hosted. Default: none does. */
  isSecret?: (digest: Digest) => Promise<boolean>
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
  readonly pins: Pins
  readonly repair: Repair
  /** What was pushed to this cluster. */
  readonly local: LocalRepository
  readonly present: Present
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
  const { manager, store, config, log, now = Date.now, isSecret = async () => false } = dependencies
  const { tagTtlMs = 30_000, entitlementTtlMs = 300_000, patienceMs = 8_000 } = config
  const { localCopies = 2, localAck = 'quorum' } = config
  const { hints, storing } = manager
  const self = manager.self.id
  // Half of the patience for asking upstream leaves the other half for neighbours.
  const head = createAskHead({ upstream: dependencies.upstream, timeoutMs: Math.round(patienceMs / 2) })
  const access = createAccess({
    store,
    hints,
    storing,
    upstream: dependencies.upstream,
    salt: config.credentialSalt,
    policy: config.offline ?? 'known',
    ttlMs: entitlementTtlMs,
    log,
    now,
  })
  const links = createLinks({ store, log, now })
  const mirrored = {
    gate: createGate({ head, access, links, hints, storing, isSecret, log }),
    upstream: dependencies.upstream,
  }
  const tags = createTags({
    store,
    hints,
    storing,
    holds: (digest) => manager.holds(digest),
    head,
    access,
    gate: mirrored.gate,
    links,
    doubt: (ref) => dependencies.upstream.doubt?.(ref),
    ttlMs: tagTtlMs,
    log,
    now,
  })
  shareOutages({ manager, upstream: dependencies.upstream })

  const repository = createLocalRepository({
    records: manager.records,
    members: manager.members,
    copies: localAck === 'quorum' ? localCopies : 1,
    now,
  })
  const { elsewhere } = manager
  const present = createPresent({ repository, holds: (digest) => manager.holds(digest) })
  const local = createLocalPulling({ repository, elsewhere, now })

  const gate = gateByHost(mirrored.gate, local.gate)
  const upstream: Upstream = {
    ...mirrored.upstream,
    origin: (ref, kind, digest, ...rest) =>
      isLocal(ref) ? local.origin(digest as Digest) : mirrored.upstream.origin(ref, kind, digest, ...rest),
  }
  const resolve: Tags['resolve'] = (ask, tag) => (isLocal(ask.ref) ? local.tags : tags).resolve(ask, tag)
  const images = createImages({ store, local: repository, now })
  const manifests = createManifests({
    manager,
    store,
    upstream,
    tags: { resolve },
    gate,
    links,
    images,
    log,
    now,
  })
  const serveTags = createServeTags({ upstream, gate, tags, patienceMs, now })
  const serveReferrers = createServeReferrers({ upstream, gate, links, manifests, patienceMs })
  const serveBlob = createServeBlob({ manager, store, upstream, head, gate })
  const serveLocalTags = createServeLocalTags({ repository })
  const serveLocalReferrers = createServeLocalReferrers({ repository })
  const defaultHost = config.defaultHost ?? 'docker.io'
  return {
    manager,
    upstream,
    gate,
    manifests,
    images,
    pins: createPins({ store, images, defaultHost, log }),
    repair: createRepair({ store, manager, upstream, images, log }),
    local: repository,
    present,
    async serveBlob(exchange, ask, digest) {
      // Clients ask before they upload: a yes has to mean that they need not.
      if (isLocal(ask.ref) && exchange.head && (await present(ask.ref.repository, digest)) === undefined) {
        throw new ShoalError('NOT_FOUND', `local/${ask.ref.repository} has no blob ${digest}`)
      }
      return serveBlob(exchange, ask, digest)
    },
    serveTags: (exchange, ask, ...rest) =>
      (isLocal(ask.ref) ? serveLocalTags : serveTags)(exchange, ask, ...rest),
    serveReferrers: (exchange, ask, ...rest) =>
      (isLocal(ask.ref) ? serveLocalReferrers : serveReferrers)(exchange, ask, ...rest),
    patienceMs,
    defaultHost,
    async ask(ref, credential, { via = [], accept, signal }) {
      const subject = await access.subjectOf(ref.host, credential)
      return { ref, credential, subject, via: [...via, self], accept, signal }
    },
    async sweep() {
      await access.sweep()
      await links.sweep()
      await repository.sweep()
    },
  }
}

function isLocal(ref: RepositoryRef): boolean {
  return ref.host === LOCAL_HOST
}

function gateByHost(mirrored: Gate, local: Gate): Gate {
  const of = ({ ref }: Ask): Gate => (isLocal(ref) ? local : mirrored)
  return {
    admit: (ask, ...rest) => of(ask).admit(ask, ...rest),
    promising: (ask, ...rest) => of(ask).promising(ask, ...rest),
    noting: (ask, ...rest) => of(ask).noting(ask, ...rest),
    offline: (ask, ...rest) => of(ask).offline(ask, ...rest),
  }
}
