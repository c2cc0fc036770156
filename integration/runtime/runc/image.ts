import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline, Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { type Digest, digestOf, hasherFor, parseDigest, ShoalError } from '../../../base/index.ts'
import { hostPlatform, parseReference } from '../../../proxy/index.ts'
import { applyLayer } from '../layer.ts'

export interface ImageSource {
  reference: string
  /** Shoal's own registry, HOST:PORT: everything comes through it. */
  registry: string
  /** Where unpacked images are kept. */
  dir: string
  signal: AbortSignal
}

interface Descriptor {
  mediaType?: string
  digest: string
  size?: number
  platform?: { os?: string; architecture?: string; variant?: string }
}

interface Manifest {
  manifests?: Descriptor[]
  layers?: Descriptor[]
}

const ACCEPT = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
].join(', ')
const DOCUMENT_BYTES = 8 * 2 ** 20

/**
 * An image's root file system as a read-only directory, by its layers; unpacked once and kept, since runc keeps no images.
 * @throws NOT_FOUND | DIGEST_MISMATCH | UPSTREAM_STATUS | UPSTREAM_UNREACHABLE
 */
export async function unpackImage(source: ImageSource): Promise<string> {
  const { layers, base } = await resolveImage(source)
  const name = createHash('sha256')
    .update(layers.map(({ digest }) => digest).join('\n'))
    .digest('hex')
  const path = join(source.dir, name)
  if (await isThere(path)) return path
  await mkdir(source.dir, { recursive: true, mode: 0o700 })
  const stage = await mkdtemp(join(source.dir, '.unpack-'))
  try {
    const root = join(stage, 'root')
    await mkdir(root, { mode: 0o755 })
    for (const layer of layers) await unpackLayer(`${base}/blobs/${layer.digest}`, layer, root, source.signal)
    await rename(root, path).catch(async (error: unknown) => {
      // Somebody else was quicker.
      if (!(await isThere(path))) throw error
    })
  } finally {
    await rm(stage, { recursive: true, force: true })
  }
  return path
}

async function resolveImage(source: ImageSource): Promise<{ layers: Descriptor[]; base: string }> {
  const { host, repository, tag, digest } = parseReference(source.reference)
  const path = host === source.registry ? repository : `${host}/${repository}`
  const base = `http://${source.registry}/v2/${path}`
  let manifest = await document(base, digest ?? tag ?? 'latest', source)
  for (let depth = 0; manifest.manifests; depth++) {
    const { os, architecture } = hostPlatform()
    const fits = manifest.manifests.find(
      ({ platform }) => !platform || (platform.os === os && platform.architecture === architecture),
    )
    if (!fits || depth > 2)
      throw new ShoalError('NOT_FOUND', `${source.reference} has no image for ${os}/${architecture}`)
    manifest = await document(base, parseDigest(fits.digest), source)
  }
  const layers = manifest.layers ?? []
  for (const { digest: layer } of layers) parseDigest(layer)
  return { layers, base }
}

async function document(base: string, name: string, { signal, reference }: ImageSource): Promise<Manifest> {
  const body = await get(`${base}/manifests/${name}`, signal)
  const parts: Buffer[] = []
  let size = 0
  for await (const part of body as AsyncIterable<Buffer>) {
    size += part.length
    if (size > DOCUMENT_BYTES) throw new ShoalError('PROTOCOL', `the manifest of ${reference} is too large`)
    parts.push(part)
  }
  const bytes = Buffer.concat(parts)
  if (name.includes(':') && digestOf(bytes) !== name)
    throw new ShoalError('DIGEST_MISMATCH', `the manifest ${name} of ${reference} has other bytes`)
  try {
    return JSON.parse(bytes.toString()) as Manifest
  } catch (cause) {
    throw new ShoalError('PROTOCOL', `${reference} has no good manifest`, { cause })
  }
}

async function unpackLayer(url: string, layer: Descriptor, root: string, signal: AbortSignal): Promise<void> {
  const body = await get(url, signal)
  const packed = verified(body, parseDigest(layer.digest))
  const type = layer.mediaType ?? ''
  const opened = type.endsWith('zstd')
    ? through(packed, createZstdDecompress())
    : /gzip$/.test(type)
      ? through(packed, createGunzip())
      : packed
  await applyLayer(opened, root, { form: 'merged', signal })
}

async function* verified(body: Readable, digest: Digest): AsyncGenerator<Buffer> {
  const hash = hasherFor(digest)
  for await (const part of body as AsyncIterable<Buffer>) {
    hash.update(part)
    yield part
  }
  if (`${digest.split(':')[0]}:${hash.digest('hex')}` !== digest)
    throw new ShoalError('DIGEST_MISMATCH', `the layer ${digest} has other bytes`)
}

async function* through(
  source: AsyncIterable<Buffer>,
  transform: ReturnType<typeof createGunzip> | ReturnType<typeof createZstdDecompress>,
): AsyncGenerator<Buffer> {
  yield* pipeline(Readable.from(source, { objectMode: false }), transform, () => {}) as AsyncIterable<Buffer>
}

async function get(url: string, signal: AbortSignal): Promise<Readable> {
  const { request } = await import('undici')
  const { statusCode, body } = await request(url, { signal, headers: { accept: ACCEPT } }).catch((cause) => {
    throw new ShoalError('UPSTREAM_UNREACHABLE', `${url} is out of reach`, { cause })
  })
  if (statusCode === 200) return body
  await body.dump()
  throw new ShoalError(statusCode === 404 ? 'NOT_FOUND' : 'UPSTREAM_STATUS', `${url} answered ${statusCode}`)
}

async function isThere(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  )
}
