import { type Digest, ShoalError } from '../base/index.ts'
import type { Origin, StoredBlob } from '../manager/types.ts'
import { platformName } from './images.ts'
import { hostPlatform, type Platform } from './platform.ts'
import { partsOf, pick } from './pull.ts'
import { formatReference, parseReference } from './reference.ts'
import type { ManifestAnswer } from './registry/manifests.ts'
import { isManifestType } from './registry/media.ts'
import type { ProxyParts } from './registry/parts.ts'

/** Indexes in indexes are allowed, but not without end; nor is one with more images. */
const MAX_DEPTH = 3
const MAX_MANIFESTS = 256

/** What an image is made of, and where that comes from. */
export interface Collected {
  /** As `storedName` has it. */
  name: string
  digest: Digest
  /** Manifests, configs and layers, each once. */
  blobs: StoredBlob[]
  /** The node has no credentials for the upstream: it gives the image to anybody. */
  anonymous: boolean
  origin(blob: StoredBlob): Origin
}

/**
 * The name that an image is stored under: `HOST/REPOSITORY:TAG`, or `HOST/REPOSITORY@DIGEST` where there is a digest.
 * @throws NAME_INVALID | DIGEST_INVALID
 */
export function storedName(reference: string, defaultHost?: string): string {
  const parsed = parseReference(reference, defaultHost)
  return formatReference(parsed.digest === undefined ? parsed : { ...parsed, tag: undefined })
}

/**
 * Reads the manifests of an image with the node's own rights, and names all that it is made of; configs and layers are not
 * fetched. @throws as pullImage
 */
export async function collectImage(options: {
  parts: ProxyParts
  reference: string
  /** `all`: whatever an index names. Default: this machine's. */
  platform?: Platform | 'all'
  signal: AbortSignal
}): Promise<Collected> {
  const { parts, platform = hostPlatform(), signal } = options
  const { manifests, upstream, defaultHost } = parts
  const reference = parseReference(options.reference, defaultHost)
  const name = formatReference(reference)
  const { host, repository } = reference
  const ask = await parts.ask({ host, repository }, { kind: 'node' }, { signal })
  const how = { priority: 'preheat', pulled: true } as const
  const read = new Map<Digest, StoredBlob>()
  const blobs = new Map<Digest, StoredBlob>()

  async function take(answer: ManifestAnswer, depth: number): Promise<void> {
    const { digest, bytes, mediaType, manifest } = answer
    read.set(digest, { digest, size: bytes.length, mediaType })
    if (!manifest) throw new ShoalError('PROTOCOL', `${name} is no manifest that Shoal understands`)
    const images = manifest.manifests.filter((entry) => isManifestType(entry.mediaType))
    if (images.length === 0) {
      for (const { entry } of partsOf(answer)) {
        const { size, mediaType } = entry
        blobs.set(entry.digest, { digest: entry.digest, size, mediaType })
      }
      return
    }
    const chosen = platform === 'all' ? images : [pick(manifest.manifests, platform)]
    for (const entry of chosen) {
      if (!entry || depth === MAX_DEPTH) {
        const wanted = platform === 'all' ? 'every platform' : platformName(platform)
        throw new ShoalError('NOT_FOUND', `${name} has nothing for ${wanted}`)
      }
      if (read.has(entry.digest)) continue
      if (read.size === MAX_MANIFESTS) {
        throw new ShoalError('PROTOCOL', `${name} has more than ${MAX_MANIFESTS} manifests`)
      }
      await take(await manifests.byDigest(ask, entry.digest, how), depth + 1)
    }
  }

  const root =
    reference.digest === undefined
      ? await manifests.byTag(ask, reference.tag ?? 'latest', how)
      : await manifests.byDigest(ask, reference.digest, how)
  await take(root, 0)
  return {
    name: storedName(options.reference, defaultHost),
    digest: root.digest,
    blobs: [...new Map([...blobs, ...read]).values()],
    anonymous: (await upstream.identity(host)) === undefined,
    origin: ({ digest }) =>
      upstream.origin(ask.ref, read.has(digest) ? 'manifests' : 'blobs', digest, ask.credential, ask.via),
  }
}
