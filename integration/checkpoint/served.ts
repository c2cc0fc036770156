import { type Digest, hasherFor, isDigest, isShoalError, ShoalError } from '../../base/index.ts'
import type { NodeIdentity, Origin, PeerId, StoredBlob } from '../../manager/index.ts'
import type { Hosted, HostedBlob, HostedManifest } from '../../proxy/index.ts'
import { parseReference, type RepositoryRef } from '../../proxy/index.ts'
import type { Seal, States } from '../state/types.ts'
import { ARTIFACT_TYPE, INDEX_TYPE, virtualParts } from './artifact.ts'
import { type BaseImages, properName } from './base-image.ts'
import type { CheckpointDocument, Inside } from './document.ts'
import { isName, parseCheckpointReference } from './names.ts'
import type { Published } from './published.ts'
import { openDocument } from './sealing.ts'
import { readVirtual } from './virtual.ts'

/** Checkpoints as OCI artifacts: what the registry has below `checkpoints/`. */
export type Served = Hosted

type Index = {
  manifests: { digest: Digest; size: number; mediaType: string }[]
  subject?: { digest: Digest }
}

/**
 * A repository is a checkpoint's name, a tag a version. Blobs are made of the state as they are read; nothing of them is kept, so that no
 * other repository can give them away. What else is asked for belongs to the base image.
 */
export function createServed(deps: {
  published: Published
  states: States
  images: BaseImages
  origin: (blob: StoredBlob) => Origin
  self: PeerId
  identity: NodeIdentity
}): Served {
  const { published, states, origin, self, identity } = deps

  const open = (document: CheckpointDocument): { inside: Inside; seal: Seal | undefined } =>
    openDocument(document, self, identity)

  function imageOf({ container }: CheckpointDocument): RepositoryRef | undefined {
    if (!container.image) return undefined
    try {
      const { host, repository } = parseReference(properName(container.image.reference))
      return { host, repository }
    } catch {
      return undefined
    }
  }

  /** The newest version of the name that has this digest among its entries, or else any base image. */
  async function owner(
    name: string,
    digest: Digest,
  ): Promise<
    | {
        document: CheckpointDocument
        inside: Inside
        seal: Seal | undefined
        entry: Index['manifests'][number]
      }
    | undefined
  > {
    for (const document of (await documents(name)).reverse()) {
      try {
        const { inside, seal } = open(document)
        const entry = (JSON.parse(inside.index) as Index).manifests.find((one) => one.digest === digest)
        if (entry) return { document, inside, seal, entry }
      } catch (error) {
        if (!isShoalError(error, 'DENIED')) throw error
      }
    }
    return undefined
  }

  async function documents(name: string): Promise<CheckpointDocument[]> {
    return isName(name) ? published.list(name) : []
  }

  function manifestOf(document: CheckpointDocument): HostedManifest {
    return { digest: document.digest, mediaType: INDEX_TYPE, bytes: Buffer.from(open(document).inside.index) }
  }

  /** Where a part of a base image is: the name's versions may be of several. */
  async function elsewhere(name: string): Promise<{ of: RepositoryRef } | undefined> {
    const last = (await documents(name)).at(-1)
    const of = last && imageOf(last)
    return of && { of }
  }

  return {
    async manifest(name, reference) {
      if (!isDigest(reference)) {
        if (!isName(name)) return undefined
        try {
          return manifestOf(await published.find(parseCheckpointReference(`${name}:${reference}`)))
        } catch (error) {
          if (isShoalError(error, 'NAME_INVALID', 'NOT_FOUND')) return undefined
          throw error
        }
      }
      const document = (await documents(name)).find((one) => one.digest === reference)
      return document ? manifestOf(document) : elsewhere(name)
    },
    async blob(name, digest): Promise<HostedBlob | { of: RepositoryRef } | undefined> {
      const found = await owner(name, digest)
      if (!found) return elsewhere(name)
      const { document, inside, seal, entry } = found
      const virtual = virtualParts(inside).find(
        ({ mediaType, blob }) => mediaType === entry.mediaType && blob.size === entry.size,
      )
      // The base image stands in the index, too.
      if (!virtual) return elsewhere(name)
      const { recipe } = document
      return {
        size: virtual.blob.size,
        mediaType: entry.mediaType,
        read: (range, signal) => {
          const bytes = readVirtual(virtual.blob, range, (path, start, end) =>
            states.read({ recipe, path, start, end, origin, ...(seal ? { seal } : {}), signal }),
          )
          const whole = range.start === 0 && range.end === virtual.blob.size
          return whole ? verified(bytes, digest) : copied(bytes)
        },
      }
    },
    async tags(name) {
      return (await documents(name)).map(({ version }) => String(version))
    },
    async referrers(name, subject) {
      const found: { digest: Digest; size: number; mediaType: string; artifactType: string }[] = []
      for (const document of await documents(name)) {
        try {
          const { index } = open(document).inside
          if ((JSON.parse(index) as Index).subject?.digest !== subject) continue
          const size = Buffer.byteLength(index)
          found.push({ mediaType: INDEX_TYPE, digest: document.digest, size, artifactType: ARTIFACT_TYPE })
        } catch (error) {
          if (!isShoalError(error, 'DENIED')) throw error
        }
      }
      return found
    },
    /** Recipes and packs lie in the store like any blob: they are memory, and belong to no repository. */
    async isSecret(digest) {
      for await (const { blobs } of published.all())
        if (blobs.some((blob) => blob.digest === digest)) return true
      return false
    },
  }
}

/** Chunks of memory of their own: a state's lie in what another thread writes to. */
async function* copied(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) yield Buffer.from(chunk)
}

/** The last chunk is held back until all of them have the digest. @throws DIGEST_MISMATCH */
async function* verified(chunks: AsyncIterable<Uint8Array>, digest: Digest): AsyncGenerator<Uint8Array> {
  const hash = hasherFor(digest)
  let held: Buffer | undefined
  for await (const chunk of chunks) {
    if (held) yield held
    hash.update(chunk)
    held = Buffer.from(chunk)
  }
  if (`${digest.split(':')[0]}:${hash.digest('hex')}` !== digest) {
    throw new ShoalError('DIGEST_MISMATCH', `what was made of the checkpoint's state is not ${digest}`)
  }
  if (held) yield held
}
