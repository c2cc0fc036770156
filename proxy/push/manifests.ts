import { type Digest, digestOf, ShoalError, type Turns } from '../../base/index.ts'
import type { Manager } from '../../manager/types.ts'
import type { Images } from '../images.ts'
import type { LocalManifest, LocalRepository, Part } from '../local/index.ts'
import { MAX_MANIFEST } from '../registry/ask.ts'
import type { Exchange } from '../registry/exchange.ts'
import { refusal } from '../registry/failure.ts'
import { readManifest } from '../registry/manifest.ts'
import type { Route } from '../registry/route.ts'
import { type Document, readDocument } from './document.ts'
import type { Keeping } from './keeping.ts'
import { lengthOf, receiveAll } from './receiving.ts'

/** Blobs that an index with all its manifests may need: their list is one shared record. */
const MAX_BLOBS = 1400

/** Manifests that are in memory at the same time have so many bytes together; each is there till it is acknowledged, and more than once. */
const MAX_AT_ONCE = 2 * MAX_MANIFEST

type ManifestRoute = Extract<Route, { type: 'manifest' }>

/** What a pushed manifest is stored under: each of them by itself, as a tag may move on while its old manifest stays. */
export const imageName = (repository: string, digest: Digest): string => `local/${repository}@${digest}`

/** Answers PUT of a manifest: it is acknowledged when all of the image is safe. */
export function createPutManifest(parts: {
  manager: Pick<Manager, 'ingest'>
  repository: LocalRepository
  keeping: Keeping
  images: Pick<Images, 'note'>
  /** By `imageName`: what a failed push or a deletion takes back must not be what another push has acknowledged. */
  turns: Turns
}): (exchange: Exchange, route: ManifestRoute) => Promise<void> {
  const { manager, repository, keeping, images, turns } = parts
  let bytesAtOnce = 0

  /** Everything that the manifest names has to be here under this name, in the size that it says. */
  async function check(name: string, document: Document): Promise<void> {
    for (const { digest, size } of document.parts) {
      const here = await repository.link(name, digest)
      if (here === undefined) throw unknown(name, digest)
      if (here === size) {
        await repository.renewLink(name, digest, size)
        continue
      }
      throw refusal(400, 'MANIFEST_INVALID', `${digest} has ${here} bytes, the manifest says ${size}`)
    }
    for (const digest of document.manifests) {
      if (!(await repository.manifest(name, digest))) throw unknown(name, digest)
    }
  }

  /** All blobs that the image needs: of an index, those of its manifests, too. @throws MANIFEST_INVALID for too many */
  async function blobsOf(name: string, digest: Digest, manifest: LocalManifest): Promise<Part[]> {
    const found = new Map<Digest, number>()
    const take = async (one: Digest, { size, parts: named, manifests }: LocalManifest): Promise<void> => {
      if (found.has(one)) return
      found.set(one, size)
      for (const part of named) found.set(part.digest, part.size)
      for (const child of manifests) {
        const record = await repository.manifest(name, child)
        if (record) await take(child, record)
      }
    }
    await take(digest, manifest)
    if (found.size > MAX_BLOBS) {
      throw refusal(400, 'MANIFEST_INVALID', `the index needs ${found.size} blobs, more than ${MAX_BLOBS}`)
    }
    return [...found].map(([part, size]) => ({ digest: part, size }))
  }

  async function put(
    exchange: Exchange,
    name: string,
    digest: Digest,
    manifest: LocalManifest,
    bytes: Buffer,
  ): Promise<void> {
    const { signal } = exchange
    const image = imageName(name, digest)
    const known = (await repository.manifest(name, digest)) !== undefined
    try {
      const { size, mediaType } = manifest
      await manager.ingest({ digest, size, mediaType, chunks: () => once(bytes), signal })
      await keeping.secure(image, { digest, blobs: await blobsOf(name, digest, manifest) }, signal)
      await repository.putManifest(name, digest, manifest, signal)
    } catch (error) {
      // A record that was written without its quorum still spreads: then what it names must not go.
      if (known || (await repository.manifest(name, digest))) await keeping.settle(image)
      else await keeping.forget(image)
      throw error
    }
    await keeping.settle(image)
  }

  async function accept(exchange: Exchange, route: ManifestRoute): Promise<void> {
    const { request, signal } = exchange
    const name = route.ref.repository
    const bytes = await receiveAll(request, MAX_MANIFEST, signal)
    const algorithm = 'digest' in route && route.digest.startsWith('sha512:') ? 'sha512' : 'sha256'
    const digest = digestOf(bytes, algorithm)
    if ('digest' in route && route.digest !== digest) {
      throw refusal(400, 'DIGEST_INVALID', `the manifest that came is ${digest}`)
    }
    const document = readDocument(bytes, request.headers['content-type'])
    await check(name, document)
    const manifest = { ...document, size: bytes.length }
    await turns.run(imageName(name, digest), () => put(exchange, name, digest, manifest, bytes))
    if ('tag' in route) await repository.putTag(name, route.tag, digest, signal)
    const read = readManifest(bytes, document.mediaType)
    if (read) await images.note(route.ref, digest, read, bytes.length)
    const [path = ''] = (request.url ?? '').split('?')
    exchange.reply(
      201,
      {
        Location: `${path.slice(0, path.lastIndexOf('/'))}/${digest}`,
        'Docker-Content-Digest': digest,
        ...(document.subject === undefined ? {} : { 'OCI-Subject': document.subject }),
      },
      Buffer.alloc(0),
    )
  }

  return async (exchange, route) => {
    const bytes = Math.min(MAX_MANIFEST, lengthOf(exchange.request) ?? MAX_MANIFEST)
    if (bytesAtOnce + bytes > MAX_AT_ONCE) {
      throw new ShoalError('BUSY', 'too many manifests are being pushed at the same time')
    }
    bytesAtOnce += bytes
    try {
      await accept(exchange, route)
    } finally {
      bytesAtOnce -= bytes
    }
  }
}

function unknown(name: string, digest: Digest): Error {
  return refusal(404, 'MANIFEST_BLOB_UNKNOWN', `the manifest names ${digest}, which local/${name} has not`)
}

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes
}
