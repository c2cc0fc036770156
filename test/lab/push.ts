import { createHash } from 'node:crypto'
import { request } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { digestOf } from '../../base/index.ts'
import { ARCH, busyboxLayer, type ImageSpec, type Layer, MEDIA, programsLayer, randomLayer } from './image.ts'

export interface Pushed {
  /** Of what the tag names: an index or a manifest. */
  digest: string
  /** The manifest for this machine's platform. */
  manifest: string
  config: string
  layers: { digest: string; size: number }[]
  /** Bytes of the manifests, config and layers that a pull on this machine moves. */
  bytes: number
}

interface Descriptor {
  mediaType: string
  digest: string
  size: number
}

/** Makes an image and pushes it over the distribution API (plain HTTP), streaming. */
export async function pushImage(registry: string, spec: ImageSpec, auth?: string): Promise<Pushed> {
  const media = MEDIA[spec.format ?? 'oci']
  const seed = spec.seed ?? `${spec.name}:${spec.tag}`
  const base = `${registry}/v2/${spec.name}`
  const send = sender(auth)

  async function pushBytes(bytes: Buffer, mediaType: string): Promise<Descriptor> {
    const digest = digestOf(bytes)
    const upload = await send('POST', `${base}/blobs/uploads/`, 202)
    await send('PUT', withDigest(upload.location, base, digest), 201, [bytes])
    return { mediaType, digest, size: bytes.length }
  }

  async function pushLayer(layer: Layer): Promise<Descriptor> {
    const hash = createHash('sha256')
    let size = 0
    async function* counted() {
      for await (const chunk of layer.bytes) {
        hash.update(chunk)
        size += chunk.length
        yield chunk
      }
    }
    const upload = await send('POST', `${base}/blobs/uploads/`, 202)
    const patched = await send('PATCH', new URL(upload.location, base).href, 202, counted())
    const digest = `sha256:${hash.digest('hex')}`
    await send('PUT', withDigest(patched.location, base, digest), 201)
    return { mediaType: media.layer, digest, size }
  }

  async function pushPlatform(platform: string, layers: Layer[]) {
    const [os, architecture] = platform.split('/')
    const pushed: Descriptor[] = []
    for (const layer of layers) pushed.push(await pushLayer(layer))
    const text = `hello from ${spec.name}:${spec.tag}`
    const config = {
      architecture,
      os,
      created: '2026-01-01T00:00:00Z',
      config: spec.runnable ? { Cmd: ['/bin/busybox', 'echo', text], Env: ['PATH=/bin'] } : {},
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId()) },
      history: layers.map(() => ({ created: '2026-01-01T00:00:00Z', created_by: 'lab' })),
    }
    const configDescriptor = await pushBytes(json(config), media.config)
    const bytes = json({
      schemaVersion: 2,
      mediaType: media.manifest,
      config: configDescriptor,
      layers: pushed,
    })
    const digest = digestOf(bytes)
    await send('PUT', `${base}/manifests/${digest}`, 201, [bytes], media.manifest)
    return { platform, bytes, digest, config: configDescriptor, layers: pushed }
  }

  const own = spec.layers.map((layer, i) =>
    typeof layer === 'number'
      ? randomLayer(`${seed}/${i}`, layer, `layer-${i}.bin`)
      : randomLayer(layer.seed, layer.size, 'shared.bin'),
  )
  const main = await pushPlatform(`linux/${ARCH}`, [
    ...(spec.runnable ? [busyboxLayer()] : []),
    ...(spec.programs ? [programsLayer(spec.programs)] : []),
    ...own,
  ])
  let top: { bytes: Buffer; digest: string; type: string } = { ...main, type: media.manifest }
  if (spec.platforms !== undefined) {
    const others = []
    for (const platform of spec.platforms.filter((p) => p !== main.platform)) {
      others.push(await pushPlatform(platform, [randomLayer(`${seed}/${platform}`, 65_536, 'other.bin')]))
    }
    const manifests = [main, ...others].map((m) => {
      const [os, architecture] = m.platform.split('/')
      return {
        mediaType: media.manifest,
        digest: m.digest,
        size: m.bytes.length,
        platform: { os, architecture },
      }
    })
    const bytes = json({ schemaVersion: 2, mediaType: media.index, manifests })
    top = { bytes, digest: digestOf(bytes), type: media.index }
  }
  await send('PUT', `${base}/manifests/${spec.tag}`, 201, [top.bytes], top.type)

  const indexBytes = top.digest === main.digest ? 0 : top.bytes.length
  return {
    digest: top.digest,
    manifest: main.digest,
    config: main.config.digest,
    layers: main.layers.map(({ digest, size }) => ({ digest, size })),
    bytes:
      indexBytes +
      main.bytes.length +
      main.config.size +
      main.layers.reduce((sum, layer) => sum + layer.size, 0),
  }
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}

function withDigest(location: string, base: string, digest: string): string {
  const url = new URL(location, base)
  url.searchParams.set('digest', digest)
  return url.href
}

function sender(auth: string | undefined) {
  return async (
    method: string,
    url: string,
    expect: number,
    body: AsyncIterable<Buffer> | Buffer[] = [],
    type = 'application/octet-stream',
  ): Promise<{ location: string }> => {
    const headers: Record<string, string> = { 'Content-Type': type }
    if (auth !== undefined) headers.Authorization = `Basic ${Buffer.from(auth).toString('base64')}`
    if (Array.isArray(body)) {
      headers['Content-Length'] = String(body.reduce((sum, part) => sum + part.length, 0))
    }
    const req = request(url, { method, headers })
    const answered = new Promise<import('node:http').IncomingMessage>((resolve, reject) => {
      req.on('response', resolve).on('error', reject)
    })
    const [response] = await Promise.all([answered, pipeline(body, req)])
    let text = ''
    for await (const chunk of response.setEncoding('utf8')) text += chunk
    if (response.statusCode !== expect) {
      throw new Error(`${method} ${url}: ${response.statusCode} ${text.slice(0, 300)}`)
    }
    return { location: response.headers.location ?? '' }
  }
}

// Run as a process: push.ts REGISTRY SPEC [USER:PASSWORD]
if (import.meta.main) {
  const [registry = '', spec = '', auth] = process.argv.slice(2)
  const images = JSON.parse(spec) as ImageSpec[]
  const pushed: Pushed[] = []
  for (const image of images) pushed.push(await pushImage(registry, image, auth))
  process.stdout.write(JSON.stringify(pushed))
}
