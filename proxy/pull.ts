import { type Digest, ShoalError } from '../base/index.ts'
import type { Sources } from '../manager/types.ts'
import { platformName } from './images.ts'
import { choosePlatform, hostPlatform, type Platform } from './platform.ts'
import { formatReference, parseReference } from './reference.ts'
import type { Ask } from './registry/ask.ts'
import type { Descriptor } from './registry/manifest.ts'
import { guarded, type ManifestAnswer } from './registry/manifests.ts'
import { isManifestType } from './registry/media.ts'
import type { ProxyParts } from './registry/parts.ts'
import { until } from './registry/share.ts'

/** Blobs on their way at the same time. */
const AT_ONCE = 3
const REPORT_MS = 200
/** Indexes in indexes are allowed, but not without end. */
const MAX_DEPTH = 3

export interface PartProgress {
  digest: Digest
  kind: 'config' | 'layer' | 'blob'
  size: number
  /** Bytes that are here. */
  done: number
  /** Where they came from. */
  sources: Sources
  /** Here and verified. */
  complete: boolean
}

export interface PullResult {
  /** The reference in full. */
  name: string
  /** What it names: an index or a manifest. */
  digest: Digest
  /** The image's manifest; the same as `digest` where there is no index, undefined for an index of plain blobs. */
  manifest: Digest | undefined
  platform: string | undefined
  /** Bytes of all parts and of the manifests. */
  size: number
  /** Bytes by where they came from, the manifests included. */
  sources: Sources
  parts: PartProgress[]
  /** ms since the tag was last confirmed, where upstream could not be asked. */
  staleMs: number | undefined
}

/**
 * Brings an image to this node with the node's own rights, behind what clients wait for. `onProgress` hears of each part
 * when it begins, a few times a second while it comes, and when it is complete. Resolves when all of it is here and verified.
 * @throws NAME_INVALID | DIGEST_INVALID | NOT_FOUND (also: nothing for the platform) | and what upstream says
 */
export async function pullImage(options: {
  parts: ProxyParts
  reference: string
  /** Default: this machine's. */
  platform?: Platform
  signal: AbortSignal
  onProgress?: (part: PartProgress) => void
}): Promise<PullResult> {
  const { parts, platform = hostPlatform(), onProgress = () => {} } = options
  const reference = parseReference(options.reference, parts.defaultHost)
  const { host, repository } = reference
  const stop = new AbortController()
  const signal = AbortSignal.any([options.signal, stop.signal])
  const ask = await parts.ask({ host, repository }, { kind: 'node' }, { signal })
  const how = { priority: 'preheat', pulled: true } as const
  const seen: ManifestAnswer[] = []
  const byDigest = async (digest: Digest): Promise<ManifestAnswer> => {
    const answer = await parts.manifests.byDigest(ask, digest, how)
    seen.push(answer)
    return answer
  }

  const root =
    reference.digest === undefined
      ? await parts.manifests.byTag(ask, reference.tag ?? 'latest', how)
      : await parts.manifests.byDigest(ask, reference.digest, how)
  seen.push(root)
  let image = root
  let chosen: Descriptor | undefined
  for (let depth = 0; image.manifest?.manifests.some((entry) => isManifestType(entry.mediaType)); depth++) {
    chosen = depth < MAX_DEPTH ? pick(image.manifest.manifests, platform) : undefined
    if (!chosen) {
      const name = formatReference(reference)
      throw new ShoalError('NOT_FOUND', `${name} has nothing for ${platformName(platform)}`)
    }
    image = await byDigest(chosen.digest)
  }
  if (!image.manifest) {
    throw new ShoalError('PROTOCOL', `${formatReference(reference)} is no manifest that Shoal understands`)
  }

  const wanted = partsOf(image)
  const progress = wanted.map(
    ({ kind, entry }): PartProgress => ({
      digest: entry.digest,
      kind,
      size: entry.size,
      done: 0,
      sources: { local: 0, peers: 0, upstream: 0 },
      complete: false,
    }),
  )
  // All at once, so that a watcher knows the whole from the start.
  for (const part of progress) onProgress({ ...part })
  const queue = progress.values()
  const worker = async (): Promise<void> => {
    for (const part of queue) await pullPart(parts, ask, part, onProgress)
  }
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
  } catch (error) {
    // The other workers' parts are of no use without this one.
    stop.abort(error)
    if (options.signal.aborted) throw new ShoalError('ABORTED', 'the pull was cancelled', { cause: error })
    throw error
  }

  const sources = { local: 0, peers: 0, upstream: 0 }
  for (const one of [...seen, ...progress]) {
    sources.local += one.sources.local
    sources.peers += one.sources.peers
    sources.upstream += one.sources.upstream
  }
  const isImage = wanted.every(({ kind }) => kind !== 'blob')
  return {
    name: formatReference(reference),
    digest: root.digest,
    manifest: isImage ? image.digest : undefined,
    platform: chosen?.platform ? platformName(chosen.platform) : undefined,
    size: [...seen.map(({ bytes }) => bytes.length), ...progress.map(({ size }) => size)].reduce(
      (a, b) => a + b,
      0,
    ),
    sources,
    parts: progress,
    staleMs: root.staleMs,
  }
}

/** A nested index has no platform of its own: then the first one is as good as any. */
export function pick(entries: Descriptor[], platform: Platform): Descriptor | undefined {
  const only = entries.length === 1 ? entries[0] : undefined
  return choosePlatform(entries, platform) ?? (only?.platform === undefined ? only : undefined)
}

/** What an image is made of besides manifests. Layers that only their publisher may hand out are the runtime's affair. */
export function partsOf(image: ManifestAnswer): { kind: PartProgress['kind']; entry: Descriptor }[] {
  const { config, layers = [], manifests = [] } = image.manifest ?? {}
  return [
    ...(config ? [{ kind: 'config', entry: config } as const] : []),
    ...layers.filter(({ urls }) => urls === undefined).map((entry) => ({ kind: 'layer', entry }) as const),
    ...manifests.map((entry) => ({ kind: 'blob', entry }) as const),
  ]
}

async function pullPart(
  parts: ProxyParts,
  ask: Ask,
  part: PartProgress,
  onProgress: (part: PartProgress) => void,
): Promise<void> {
  const { manager, upstream, gate } = parts
  const { digest } = part
  const blob = await guarded(
    gate,
    ask,
    'blobs',
    digest,
    ({ ref, credential, via, signal }) =>
      manager.open({
        digest,
        origin: upstream.origin(ref, 'blobs', digest, credential, via),
        priority: 'preheat',
        signal,
      }),
    (opened) => opened.close(),
  )
  const report = (): void => {
    part.sources = { ...blob.sources() }
    part.size = blob.size ?? part.size
    part.done = part.sources.local + part.sources.peers + part.sources.upstream
    onProgress({ ...part })
  }
  const ticking = setInterval(report, REPORT_MS)
  try {
    report()
    await until(blob.done, ask.signal)
    part.complete = true
    report()
  } finally {
    clearInterval(ticking)
    blob.close()
  }
}
