import type { Digest } from '../../base/index.ts'
import type { Stamp } from '../../manager/types.ts'

export interface Part {
  digest: Digest
  size: number
}

/** What every node of the cluster knows of a pushed manifest; its bytes are a blob. */
export interface LocalManifest {
  mediaType: string
  size: number
  /** Of the manifest, else of its config: what referrers are told apart by. */
  artifactType?: string
  subject?: Digest
  /** Of those with a subject. */
  annotations?: Record<string, string>
  /** Manifests that it lists. */
  manifests: Digest[]
  /** Blobs that it names. */
  parts: Part[]
}

/** A tag as somebody wrote it: undefined where the tag was deleted. */
export interface TagWrite {
  digest: Digest | undefined
  stamp: Stamp
}

export interface LocalTag extends TagWrite {
  name: string
  digest: Digest
  /** Writes at the same time that this one beat, the latest first. */
  beaten: TagWrite[]
}

/**
 * The cluster's own repositories: tags, manifests and which blobs belong where, all shared records, so that every node answers
 * alike and without asking. A repository's name is without `local/`. Writes resolve when enough nodes have them.
 * @throws NO_QUORUM on every write
 */
export interface LocalRepository {
  tag(repository: string, tag: string): Promise<Digest | undefined>
  /** By name, those after `after`. */
  tags(repository: string, after?: string): AsyncIterable<LocalTag>
  manifest(repository: string, digest: Digest): Promise<LocalManifest | undefined>
  /** By digest, those after `after`. */
  manifests(repository: string, after?: string): AsyncIterable<[digest: Digest, manifest: LocalManifest]>
  /** A blob's size, where it is part of the repository. */
  link(repository: string, digest: Digest): Promise<number | undefined>
  /** Something was pushed there and not all of it deleted. */
  exists(repository: string): Promise<boolean>
  /** All of them, sorted. */
  repositories(): Promise<string[]>
  putTag(repository: string, tag: string, digest: Digest, signal: AbortSignal): Promise<void>
  putManifest(repository: string, digest: Digest, manifest: LocalManifest, signal: AbortSignal): Promise<void>
  /** A link of a blob that no manifest of the repository names goes a day after it was made or last renewed. */
  putLink(repository: string, digest: Digest, size: number, signal: AbortSignal): Promise<void>
  /** Keeps a link that is there for another day. */
  renewLink(repository: string, digest: Digest, size: number): Promise<void>
  /** Takes back links that are old and that nothing needs; of all nodes one does it. */
  sweep(): Promise<void>
  /** False where there is none. */
  deleteTag(repository: string, tag: string, signal: AbortSignal): Promise<boolean>
  /** With the tags that name it. */
  deleteManifest(repository: string, digest: Digest, signal: AbortSignal): Promise<boolean>
  deleteLink(repository: string, digest: Digest, signal: AbortSignal): Promise<boolean>
}
