import { type Digest, isDigest } from '../../base/index.ts'
import { parseJson } from './json.ts'
import { cleanMediaType, isManifestType, OCI_INDEX } from './media.ts'

export interface Descriptor {
  digest: Digest
  size: number
  mediaType: string
  platform?: { os: string; architecture: string; variant?: string }
  /** Where a layer that is not to be distributed comes from. */
  urls?: string[]
}

/** What Shoal needs to know of a manifest or an index, of whatever generation. */
export interface Manifest {
  mediaType: string
  config?: Descriptor
  layers: Descriptor[]
  /** Of an index; entries need not be manifests: a checkpoint's are plain blobs. */
  manifests: Descriptor[]
  subject?: Descriptor
}

type Json = Record<string, unknown>

/** Reads a manifest leniently: what is not understood is left out, undefined if it is no JSON object at all. */
export function readManifest(bytes: Buffer, mediaType: string | undefined): Manifest | undefined {
  let json: Json
  try {
    const value: unknown = parseJson(bytes)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
    json = value as Json
  } catch {
    return undefined
  }
  const layers = [...list(json.layers), ...list(json.blobs), ...list(json.fsLayers)]
  const config = descriptor(json.config)
  const subject = descriptor(json.subject)
  return {
    mediaType: typeOf(json, mediaType),
    ...(config ? { config } : {}),
    layers: unique(layers),
    manifests: unique(list(json.manifests)),
    ...(subject ? { subject } : {}),
  }
}

/** Upstream's word counts where it is a manifest's type; else the document's own; else its shape. */
function typeOf(json: Json, given: string | undefined): string {
  const own = typeof json.mediaType === 'string' ? cleanMediaType(json.mediaType) : undefined
  const bare = given?.split(';')[0]?.trim()
  if (bare !== undefined && isManifestType(bare)) return bare
  if (own !== undefined) return own
  if (Array.isArray(json.manifests)) return OCI_INDEX
  if (json.schemaVersion === 1) {
    const signed = Array.isArray(json.signatures) ? 'prettyjws' : 'json'
    return `application/vnd.docker.distribution.manifest.v1+${signed}`
  }
  return 'application/vnd.oci.image.manifest.v1+json'
}

function list(value: unknown): Descriptor[] {
  if (!Array.isArray(value)) return []
  return value.map(descriptor).filter((entry) => entry !== undefined)
}

function descriptor(value: unknown): Descriptor | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const json = value as Json
  const digest = json.digest ?? json.blobSum
  if (typeof digest !== 'string' || !isDigest(digest)) return undefined
  const size =
    typeof json.size === 'number' && Number.isSafeInteger(json.size) && json.size >= 0 ? json.size : 0
  const mediaType = typeof json.mediaType === 'string' ? json.mediaType : 'application/octet-stream'
  const platform = platformOf(json.platform)
  const urls = Array.isArray(json.urls) ? json.urls.filter((url) => typeof url === 'string') : []
  return {
    digest,
    size,
    mediaType,
    ...(platform ? { platform } : {}),
    ...(urls.length > 0 ? { urls } : {}),
  }
}

function platformOf(value: unknown): Descriptor['platform'] {
  if (typeof value !== 'object' || value === null) return undefined
  const { os, architecture, variant } = value as Json
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined
  return { os, architecture, ...(typeof variant === 'string' && variant !== '' ? { variant } : {}) }
}

/** A layer may stand in a manifest more than once. */
function unique(descriptors: Descriptor[]): Descriptor[] {
  return [...new Map(descriptors.map((entry) => [entry.digest, entry])).values()]
}
