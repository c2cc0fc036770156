import { createHash } from 'node:crypto'
import { gunzipSync } from 'node:zlib'
import { digestOf } from '../../base/index.ts'
import { randomLayer } from './layers.ts'

const OCI = 'application/vnd.oci.image'

export interface Manifest {
  mediaType: string
  bytes: Buffer
}

export interface Repository {
  /** Tag to digest. */
  tags: Map<string, string>
  manifests: Map<string, Manifest>
  blobs: Map<string, Buffer>
}

export interface ImageOptions {
  repository: string
  tag?: string
  /** A number: a tar with one file of that many pseudo-random bytes. A buffer: a ready layer, as tar or tar.gz. */
  layers: (number | Buffer)[]
  /** Same seed, same bytes; default: repository and tag. */
  seed?: string
  gzip?: boolean
  /** More than one (or `index: true`) makes an index, e.g. `['linux/amd64', 'linux/arm64']`; they share the layers. */
  platforms?: string[]
  index?: boolean
  /** Docker's schema 2 media types instead of OCI's. */
  docker?: boolean
}

export interface FakeImage {
  /** What the tag points to: the index if there is one. */
  digest: string
  indexDigest: string | undefined
  /** The first platform's. */
  manifestDigest: string
  configDigest: string
  layerDigests: string[]
  manifests: { platform: string; manifestDigest: string; configDigest: string }[]
  /** Bytes of manifest, config and layers of one platform. */
  size: number
}

/** What a fake registry holds; several may share one (a registry and its blob CDN). */
export interface Contents {
  repositories: Map<string, Repository>
  repository(name: string): Repository
  addBlob(repository: string, bytes: Buffer): string
  /** `json` may be bytes already. Returns the digest. */
  addManifest(
    repository: string,
    json: object | Buffer,
    options?: { tag?: string; mediaType?: string },
  ): string
  addImage(options: ImageOptions): FakeImage
}

export function createContents(): Contents {
  const repositories = new Map<string, Repository>()

  function repository(name: string): Repository {
    let found = repositories.get(name)
    if (!found) {
      found = { tags: new Map(), manifests: new Map(), blobs: new Map() }
      repositories.set(name, found)
    }
    return found
  }

  function addBlob(name: string, bytes: Buffer): string {
    const digest = digestOf(bytes)
    repository(name).blobs.set(digest, bytes)
    return digest
  }

  function addManifest(
    name: string,
    json: object | Buffer,
    options: { tag?: string; mediaType?: string } = {},
  ): string {
    const bytes = Buffer.isBuffer(json) ? json : Buffer.from(JSON.stringify(json))
    const own = Buffer.isBuffer(json) ? undefined : (json as { mediaType?: string }).mediaType
    const digest = digestOf(bytes)
    const mediaType = options.mediaType ?? own ?? `${OCI}.manifest.v1+json`
    repository(name).manifests.set(digest, { mediaType, bytes })
    if (options.tag !== undefined) repository(name).tags.set(options.tag, digest)
    return digest
  }

  function addImage(options: ImageOptions): FakeImage {
    const { repository: name, tag = 'latest', gzip = true, docker = false } = options
    const seed = options.seed ?? `${name}-${tag}`
    const platforms = options.platforms ?? ['linux/amd64']
    const layerType = docker
      ? 'application/vnd.docker.image.rootfs.diff.tar.gzip'
      : `${OCI}.layer.v1.tar${gzip ? '+gzip' : ''}`
    const layers = options.layers.map((layer, i) =>
      typeof layer === 'number' ? randomLayer(layer, `${seed}-${i}`, gzip || docker) : readyLayer(layer),
    )
    const descriptors = layers.map(({ blob }) => ({
      mediaType: blob[0] === 0x1f || docker ? layerType : `${OCI}.layer.v1.tar`,
      digest: addBlob(name, blob),
      size: blob.length,
    }))
    const manifests = platforms.map((platform) => {
      const [os = 'linux', architecture = 'amd64', variant] = platform.split('/')
      const config = Buffer.from(
        JSON.stringify({
          architecture,
          os,
          ...(variant === undefined ? {} : { variant }),
          created: '2026-01-01T00:00:00Z',
          config: { Cmd: ['/bin/true'] },
          rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
          history: layers.map(() => ({ created: '2026-01-01T00:00:00Z', created_by: 'fake registry' })),
        }),
      )
      const configDigest = addBlob(name, config)
      const manifest = Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: docker
            ? 'application/vnd.docker.distribution.manifest.v2+json'
            : `${OCI}.manifest.v1+json`,
          config: {
            mediaType: docker ? 'application/vnd.docker.container.image.v1+json' : `${OCI}.config.v1+json`,
            digest: configDigest,
            size: config.length,
          },
          layers: descriptors,
        }),
      )
      const mediaType = docker
        ? 'application/vnd.docker.distribution.manifest.v2+json'
        : `${OCI}.manifest.v1+json`
      const manifestDigest = addManifest(name, manifest, { mediaType })
      const size = manifest.length + config.length
      return {
        platform,
        manifestDigest,
        configDigest,
        size,
        entry: {
          mediaType,
          digest: manifestDigest,
          size: manifest.length,
          platform: { architecture, os, ...(variant === undefined ? {} : { variant }) },
        },
      }
    })
    const first = manifests[0]
    if (!first) throw new Error('an image needs a platform')
    const wantsIndex = options.index ?? platforms.length > 1
    const indexType = docker
      ? 'application/vnd.docker.distribution.manifest.list.v2+json'
      : `${OCI}.index.v1+json`
    const indexDigest = wantsIndex
      ? addManifest(name, {
          schemaVersion: 2,
          mediaType: indexType,
          manifests: manifests.map(({ entry }) => entry),
        })
      : undefined
    const digest = indexDigest ?? first.manifestDigest
    repository(name).tags.set(tag, digest)
    return {
      digest,
      indexDigest,
      manifestDigest: first.manifestDigest,
      configDigest: first.configDigest,
      layerDigests: descriptors.map((descriptor) => descriptor.digest),
      manifests: manifests.map(({ platform, manifestDigest, configDigest }) => ({
        platform,
        manifestDigest,
        configDigest,
      })),
      size: first.size + descriptors.reduce((sum, descriptor) => sum + descriptor.size, 0),
    }
  }

  return { repositories, repository, addBlob, addManifest, addImage }
}

function readyLayer(blob: Buffer): { blob: Buffer; diffId: string } {
  const tar = blob[0] === 0x1f && blob[1] === 0x8b ? gunzipSync(blob) : blob
  return { blob, diffId: `sha256:${createHash('sha256').update(tar).digest('hex')}` }
}
