import type { Origin, OriginAnswer } from '../manager/index.ts'

/** A repository of an upstream. `host` is what people write in an image name (`docker.io`), not where it is mapped to. */
export interface RepositoryRef {
  host: string
  repository: string
}

export type Kind = 'manifests' | 'blobs'

/**
 * With whose rights upstream is asked. `client`: the Authorization header that a client sent us, forwarded as it is.
 * `node`: what the node's configuration or docker's config.json has for the host; without an entry, anonymous.
 */
export type Credential = { kind: 'client'; authorization: string } | { kind: 'node' }

export interface Head {
  digest: string | undefined
  size: number | undefined
  mediaType: string | undefined
}

/** The upstream registries, through HTTP: token dance, redirects, retries and stall timers are inside. */
export interface Upstream {
  /**
   * HEAD of a manifest or blob. @throws NOT_FOUND | UNAUTHORIZED (details.challenge: upstream's WWW-Authenticate) | DENIED |
   * UPSTREAM_STATUS (details.status) | UPSTREAM_UNREACHABLE
   */
  head(ref: RepositoryRef, kind: Kind, reference: string, options: UpstreamOptions): Promise<Head>
  /** GET, whole or a range; see Origin.fetch. `digest` is upstream's Docker-Content-Digest, unverified. */
  fetch(
    ref: RepositoryRef,
    kind: Kind,
    reference: string,
    options: UpstreamOptions & { range?: { start: number; end: number | undefined } },
  ): Promise<OriginAnswer & { digest: string | undefined }>
  /** GET of anything small below the repository (`tags/list?n=5`, `referrers/…`), at most 4 MiB, with upstream's headers. */
  get(
    ref: RepositoryRef,
    path: string,
    options: UpstreamOptions,
  ): Promise<{ status: number; headers: Record<string, string>; body: Buffer }>
  /** An Origin for the manager: the same blob or manifest under the same rights. `via`: see UpstreamOptions. */
  origin(ref: RepositoryRef, kind: Kind, digest: string, credential: Credential, via?: string[]): Origin
  /**
   * What the `node` credential of a host is, so that nodes with the same one can know it: the Authorization header's
   * form (`Basic …`), or undefined where there is none and the node asks as anybody. A secret: hash it, never show it.
   */
  identity(host: string): Promise<string | undefined>
  /**
   * There is something else to go by, or a neighbour found the origin out of reach: for some seconds a request waits at most one for a
   * connection. An origin that is back is found by the next request all the same.
   * @param place a repository, or an origin (scheme, host and port)
   */
  doubt?(place: RepositoryRef | string): void
  /** Called with the origin whenever one was found out of reach. */
  onUnreachable?(listener: (origin: string) => void): void
  close(): Promise<void>
}

export interface UpstreamOptions {
  credential: Credential
  /** Accept header; the client's own where there is one. */
  accept?: string
  /** IDs of the nodes that the request came through, this one last; sent as `X-Shoal-Via`, so that a loop is seen. */
  via?: string[]
  signal: AbortSignal
  /** Patience for getting an answer's headers, retries included; default 30 s for bodies, 5 s for HEAD. */
  timeoutMs?: number
}

export interface UpstreamConfig {
  /** From `--upstream HOST=URL`: where a host's registry is. docker.io is registry-1.docker.io unless mapped. */
  mirrors: Record<string, string>
  /** Per host. */
  credentials: Record<string, { username: string; password: string }>
  /** docker's config.json to read `auths` and credential helpers from, if it exists. */
  dockerConfig?: string
  /** PEM files of further certificate authorities. */
  ca: string[]
  stallMs: number
  connectMs: number
  retries: number
}

/** What a client that is known to a repository gets while upstream cannot be asked. */
export type OfflinePolicy = 'deny' | 'known' | 'open'
