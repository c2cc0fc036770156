import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Manager, Priority, Sources } from '../../manager/types.ts'
import type { Images } from '../images.ts'
import type { Head, Kind, Upstream } from '../types.ts'
import { type Ask, collect, MAX_MANIFEST } from './ask.ts'
import type { Gate } from './gate.ts'
import type { Links } from './links.ts'
import { type Manifest, readManifest } from './manifest.ts'
import { cleanMediaType } from './media.ts'
import type { Tags } from './tags.ts'

export interface ManifestAnswer {
  digest: Digest
  mediaType: string
  bytes: Buffer
  /** Undefined where it is no JSON: served all the same, as it has the right digest. */
  manifest: Manifest | undefined
  sources: Sources
  /** Set where a tag could not be confirmed: ms since it last was. */
  staleMs: number | undefined
}

/** Manifests through the swarm: whole and verified, and what they name is noted as part of the repository. */
export interface Manifests {
  byTag(ask: Ask, tag: string, options: ManifestOptions): Promise<ManifestAnswer>
  byDigest(ask: Ask, digest: Digest, options: ManifestOptions): Promise<ManifestAnswer>
}

export interface ManifestOptions {
  priority: Priority
  /** It is pulled, not only looked at: the image is listed from now on. */
  pulled: boolean
}

export function createManifests(parts: {
  manager: Manager
  store: BlockStore
  upstream: Upstream
  tags: Pick<Tags, 'resolve'>
  gate: Gate
  links: Links
  images: Images
  log: Log
  now: () => number
}): Manifests {
  const { manager, store, upstream, tags, gate, links, images, log, now } = parts

  async function read(
    ask: Ask,
    digest: Digest,
    options: ManifestOptions,
    mediaType: string | undefined,
  ): Promise<Omit<ManifestAnswer, 'staleMs'>> {
    const { ref, credential, via, signal } = ask
    const blob = await manager.open({
      digest,
      origin: upstream.origin(ref, 'manifests', digest, credential, via),
      ...(mediaType === undefined ? {} : { mediaType }),
      priority: options.priority,
      signal,
    })
    // Reading tells of failures.
    blob.done.catch(() => {})
    try {
      if ((blob.size ?? 0) > MAX_MANIFEST) {
        throw new ShoalError('PROTOCOL', `a manifest of ${blob.size} bytes is refused`)
      }
      const bytes = await collect(blob.read({ start: 0, end: undefined }, signal), MAX_MANIFEST)
      const said = cleanMediaType(blob.mediaType ?? mediaType)
      const manifest = readManifest(bytes, said)
      const type = manifest?.mediaType ?? said ?? 'application/octet-stream'
      if (type !== blob.mediaType) await describe(digest, type)
      if (manifest) await learn(ask, digest, manifest, bytes.length, options)
      return { digest, mediaType: type, bytes, manifest, sources: blob.sources() }
    } finally {
      blob.close()
    }
  }

  async function describe(digest: Digest, mediaType: string): Promise<void> {
    await store.describe(digest, { mediaType }).catch((error: unknown) => {
      log.warn({ digest, error: String(error) }, 'could not remember a media type')
    })
  }

  async function learn(
    ask: Ask,
    digest: Digest,
    manifest: Manifest,
    size: number,
    options: ManifestOptions,
  ): Promise<void> {
    const { config, layers, manifests, subject } = manifest
    const named = [config, subject, ...layers, ...manifests].filter((entry) => entry !== undefined)
    links.add(
      ask.ref,
      named.map((entry) => entry.digest),
      'named',
    )
    if (!options.pulled) return
    await images.note(ask.ref, digest, manifest, size).catch((error: unknown) => {
      log.warn({ digest, error: String(error) }, 'could not remember an image')
    })
  }

  async function byTag(ask: Ask, tag: string, options: ManifestOptions): Promise<ManifestAnswer> {
    const resolved = await tags.resolve(ask, tag)
    const answer = await read(ask, resolved.digest, options, resolved.mediaType)
    return { ...answer, staleMs: resolved.stale ? Math.max(0, now() - resolved.at) : undefined }
  }

  async function byDigest(ask: Ask, digest: Digest, options: ManifestOptions): Promise<ManifestAnswer> {
    const answer = await guarded(gate, ask, 'manifests', digest, (inner, found) =>
      read(inner, digest, options, cleanMediaType(found?.mediaType)),
    )
    return { ...answer, staleMs: undefined }
  }

  return { byTag, byDigest }
}

/**
 * Runs `work` for an asker that the gate admits. Where the answer is likely to be yes, the work begins while upstream is
 * still being asked; its result is only given after the yes.
 */
export async function guarded<T>(
  gate: Gate,
  ask: Ask,
  kind: Kind,
  digest: Digest,
  work: (ask: Ask, found: Head | undefined) => Promise<T>,
  discard: (result: T) => void = () => {},
): Promise<T> {
  const admission = gate.admit(ask, kind, digest)
  admission.catch(() => {})
  if (!(await gate.promising(ask, digest))) {
    return work(ask, await admission)
  }
  const stop = new AbortController()
  const running = work({ ...ask, signal: AbortSignal.any([ask.signal, stop.signal]) }, undefined)
  running.catch(() => {})
  try {
    await admission
  } catch (error) {
    stop.abort(error)
    running.then(discard, () => {})
    throw error
  }
  return running
}
