import type { Digest } from '../base/index.ts'
import type { BlockStore } from '../blockstore/types.ts'
import type { LocalRepository } from './local/index.ts'
import { labelOf } from './registry/ask.ts'
import type { Descriptor, Manifest } from './registry/manifest.ts'
import { isManifestType } from './registry/media.ts'
import { LOCAL_HOST } from './registry/names.ts'
import { tagRecords } from './registry/tags.ts'
import type { Kind, RepositoryRef } from './types.ts'

/** An image that came through this node, or a part of it did. */
export interface Image {
  /** `HOST/REPOSITORY:TAG`, or `HOST/REPOSITORY@DIGEST` where no tag names it. */
  name: string
  host: string
  repository: string
  tag: string | undefined
  /** Of what the name points to: a manifest, or an index. */
  digest: Digest
  mediaType: string
  /** `os/architecture[/variant]` of those of an index's images that came through here. */
  platforms: string[]
  /** Bytes of all its parts that are known: manifests, configs and layers, each once. */
  size: number
  /** Bytes of them on this disk. */
  bytesHere: number
  /** Of these the ones that are this node's share of a stored image. */
  bytesKept: number
  /** Of those that are here, the ones of blobs that lie in files which Shoal does not own. */
  bytesBorrowed: number
  layers: Digest[]
  /** All its parts that are known. */
  blobs: Digest[]
  /** ms since the epoch, of the last pull of one of its manifests. */
  pulledAt: number
}

interface Part {
  digest: Digest
  size: number
}

interface ManifestRecord {
  mediaType: string
  size: number
  config?: Part
  layers: Part[]
  manifests: { digest: Digest; size: number; mediaType: string; platform?: string }[]
  at: number
}

export interface Images {
  /** A manifest was pulled under this repository. */
  note(ref: RepositoryRef, digest: Digest, manifest: Manifest, size: number): Promise<void>
  list(): Promise<Image[]>
  /** A repository that has the blob, as what; undefined if no manifest that is known is, or names, it. */
  placeOf(digest: Digest): Promise<{ ref: RepositoryRef; kind: Kind } | undefined>
}

/** Remembers what manifests are made of, and tells which images are here. */
export function createImages(parts: {
  store: BlockStore
  local: LocalRepository
  now?: () => number
}): Images {
  const { store, local, now = Date.now } = parts
  /** Keys are `HOST/REPOSITORY@DIGEST`. */
  const records = store.records<ManifestRecord>('proxy.manifests')
  const tags = tagRecords(store)

  async function note(ref: RepositoryRef, digest: Digest, manifest: Manifest, size: number): Promise<void> {
    const part = (entry: Descriptor): Part => ({ digest: entry.digest, size: entry.size })
    await records.put(`${labelOf(ref)}@${digest}`, {
      mediaType: manifest.mediaType,
      size,
      ...(manifest.config ? { config: part(manifest.config) } : {}),
      layers: manifest.layers.map(part),
      manifests: manifest.manifests.map((entry) => ({
        ...part(entry),
        mediaType: entry.mediaType,
        ...(entry.platform ? { platform: platformName(entry.platform) } : {}),
      })),
      at: now(),
    })
  }

  /** What was deleted from the local repository is no image any more, whatever came through here. */
  async function isThere(key: string): Promise<boolean> {
    if (!key.startsWith(`${LOCAL_HOST}/`)) return true
    const at = key.indexOf('@')
    const digest = key.slice(at + 1) as Digest
    return (await local.manifest(key.slice(LOCAL_HOST.length + 1, at), digest)) !== undefined
  }

  async function list(): Promise<Image[]> {
    const manifests = new Map<string, ManifestRecord>()
    for await (const [key, record] of records.entries()) {
      if (await isThere(key)) manifests.set(key, record)
    }
    const images: Image[] = []
    /** Manifests that a listed image shows already. */
    const shown = new Set<string>()
    const add = async (label: string, tag: string | undefined, digest: Digest): Promise<void> => {
      const root = manifests.get(`${label}@${digest}`)
      if (!root) return
      shown.add(`${label}@${digest}`)
      for (const entry of root.manifests) shown.add(`${label}@${entry.digest}`)
      const image = await describe(manifests, label, tag, digest, root)
      if (image.bytesHere > 0) images.push(image)
    }
    for await (const [name, { digest }] of tags.entries()) {
      const colon = name.lastIndexOf(':')
      await add(name.slice(0, colon), name.slice(colon + 1), digest)
    }
    for (const repository of await local.repositories()) {
      const label = labelOf({ host: LOCAL_HOST, repository })
      for await (const { name, digest } of local.tags(repository)) await add(label, name, digest)
    }
    // Indexes before the manifests that they list.
    const rest = [...manifests].sort(([, a], [, b]) => b.manifests.length - a.manifests.length)
    for (const [key] of rest) {
      const at = key.indexOf('@')
      if (!shown.has(key)) await add(key.slice(0, at), undefined, key.slice(at + 1) as Digest)
    }
    return images.sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  async function describe(
    manifests: Map<string, ManifestRecord>,
    label: string,
    tag: string | undefined,
    digest: Digest,
    root: ManifestRecord,
  ): Promise<Image> {
    const sizes = new Map<Digest, number>([[digest, root.size]])
    const layers = new Set<Digest>()
    const platforms: string[] = []
    let pulledAt = root.at
    const take = (record: ManifestRecord): void => {
      pulledAt = Math.max(pulledAt, record.at)
      if (record.config) sizes.set(record.config.digest, record.config.size)
      for (const layer of record.layers) {
        sizes.set(layer.digest, layer.size)
        layers.add(layer.digest)
      }
    }
    take(root)
    for (const entry of root.manifests) {
      const child = manifests.get(`${label}@${entry.digest}`)
      if (child) take(child)
      if (child && entry.platform !== undefined) platforms.push(entry.platform)
      if (child || !isManifestType(entry.mediaType)) sizes.set(entry.digest, entry.size)
    }
    let size = 0
    let bytesHere = 0
    let bytesKept = 0
    let bytesBorrowed = 0
    for (const [part, bytes] of sizes) {
      const blob = await store.blob(part)
      size += blob?.size ?? bytes
      bytesHere += blob?.bytesHere ?? 0
      bytesKept += blob?.bytesKept ?? 0
      if (blob?.borrowedFrom !== undefined) bytesBorrowed += blob.bytesHere
    }
    const slash = label.indexOf('/')
    return {
      name: tag === undefined ? `${label}@${digest}` : `${label}:${tag}`,
      host: label.slice(0, slash),
      repository: label.slice(slash + 1),
      tag,
      digest,
      mediaType: root.mediaType,
      platforms,
      size,
      bytesHere,
      bytesKept,
      bytesBorrowed,
      layers: [...layers],
      blobs: [...sizes.keys()],
      pulledAt,
    }
  }

  async function placeOf(digest: Digest): Promise<{ ref: RepositoryRef; kind: Kind } | undefined> {
    for await (const [key, { config, layers, manifests }] of records.entries()) {
      const at = key.indexOf('@')
      const slash = key.indexOf('/')
      const ref = { host: key.slice(0, slash), repository: key.slice(slash + 1, at) }
      const entry = manifests.find((one) => one.digest === digest)
      if (key.slice(at + 1) === digest || (entry && isManifestType(entry.mediaType)))
        return { ref, kind: 'manifests' }
      if (entry || [config, ...layers].some((one) => one?.digest === digest)) return { ref, kind: 'blobs' }
    }
    return undefined
  }

  return { note, list, placeOf }
}

/** `os/architecture[/variant]`. */
export function platformName(platform: NonNullable<Descriptor['platform']>): string {
  const { os, architecture, variant } = platform
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`
}
