import type { Digest } from '../../base/index.ts'
import type { RepositoryRef } from '../types.ts'

export interface HostedManifest {
  digest: Digest
  mediaType: string
  bytes: Buffer
}

export interface HostedBlob {
  size: number
  mediaType: string
  /** Bytes `start … end` (exclusive), in order; a chunk is valid until the next one is asked for. */
  read(range: { start: number; end: number }, signal: AbortSignal): AsyncIterable<Uint8Array>
}

/**
 * The content of a pseudo host: repositories that have no upstream and are made by another room, for clients with the node's token only.
 * `of` says that something is a part of an upstream's repository, where it is got with the node's own rights. Undefined: there is none.
 */
export interface Hosted {
  /** By tag or digest. @throws DENIED */
  manifest(repository: string, reference: string): Promise<HostedManifest | { of: RepositoryRef } | undefined>
  blob(repository: string, digest: Digest): Promise<HostedBlob | { of: RepositoryRef } | undefined>
  tags(repository: string): Promise<string[]>
  /** Descriptors of what has this subject. */
  referrers(
    repository: string,
    subject: Digest,
  ): Promise<{ digest: Digest; size: number; mediaType: string; artifactType: string }[]>
  /** A blob in the store that no other repository may give away, whatever is known of it there. */
  isSecret(digest: Digest): Promise<boolean>
}
