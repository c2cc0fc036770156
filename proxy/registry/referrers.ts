import { type Digest, isDigest, isShoalError, ShoalError } from '../../base/index.ts'
import type { Upstream } from '../types.ts'
import type { Ask } from './ask.ts'
import type { Exchange } from './exchange.ts'
import { isOutage } from './failure.ts'
import type { Gate } from './gate.ts'
import { parseJson } from './json.ts'
import type { Links } from './links.ts'
import { getList, nextLink } from './lists.ts'
import type { Manifests } from './manifests.ts'
import { OCI_INDEX } from './media.ts'
import type { Page } from './route.ts'

interface Listing {
  index: Record<string, unknown> & { manifests: Record<string, unknown>[] }
  link: string | undefined
  staleMs: number | undefined
  source: 'upstream' | 'local'
}

/**
 * Answers GET and HEAD of `referrers/<digest>`: from upstream's API, else from the fallback tag that clients keep up to
 * date at registries without the API. What is not there is an empty index, as the spec wants.
 */
export function createServeReferrers(parts: {
  upstream: Upstream
  gate: Gate
  links: Links
  manifests: Manifests
  patienceMs: number
}): (exchange: Exchange, ask: Ask, digest: Digest, page: Page) => Promise<void> {
  const { links, manifests } = parts

  async function ofApi(ask: Ask, digest: Digest, page: Page): Promise<Listing | undefined> {
    const query = page.query.toString()
    const path = `referrers/${digest}${query === '' ? '' : `?${query}`}`
    const { status, headers, body } = await getList(parts, ask, path, 404)
    if (status === 404) return undefined
    const link = nextLink(headers.link, page)
    return { index: readIndex(body), link, staleMs: undefined, source: 'upstream' }
  }

  async function ofTag(ask: Ask, digest: Digest): Promise<Listing> {
    try {
      const options = { priority: 'client', pulled: false } as const
      const answer = await manifests.byTag({ ...ask, accept: OCI_INDEX }, fallbackTag(digest), options)
      return { index: readIndex(answer.bytes), link: undefined, staleMs: answer.staleMs, source: 'upstream' }
    } catch (error) {
      if (!isShoalError(error, 'NOT_FOUND')) throw error
      return { index: emptyIndex(), link: undefined, staleMs: undefined, source: 'upstream' }
    }
  }

  async function find(ask: Ask, digest: Digest, page: Page): Promise<Listing> {
    try {
      return (await ofApi(ask, digest, page)) ?? (await ofTag(ask, digest))
    } catch (error) {
      // An upstream that cannot be reached may have left its fallback tag here; tags know the offline policy.
      if (!isOutage(error) || ask.signal.aborted) throw error
      return ofTag(ask, digest)
    }
  }

  return async (exchange, ask, digest, page) => {
    const { index, link, staleMs, source } = await find(ask, digest, page)
    const named = index.manifests.map((entry) => entry.digest)
    links.add(
      ask.ref,
      named.filter((entry): entry is Digest => typeof entry === 'string' && isDigest(entry)),
      'named',
    )
    const wanted = page.query.get('artifactType')
    const shown =
      wanted === null ? index.manifests : index.manifests.filter((entry) => entry.artifactType === wanted)
    const stale = staleMs === undefined ? undefined : Math.round(staleMs / 1000)
    if (stale !== undefined) exchange.facts.stale = stale
    exchange.reply(
      200,
      {
        'Content-Type': OCI_INDEX,
        'X-Shoal-Source': source,
        ...(wanted === null ? {} : { 'OCI-Filters-Applied': 'artifactType' }),
        ...(stale === undefined ? {} : { 'X-Shoal-Stale': stale }),
        ...(link === undefined ? {} : { Link: link }),
      },
      Buffer.from(JSON.stringify({ ...index, manifests: shown })),
    )
  }
}

/** The tag of the distribution spec's fallback schema: `ALGORITHM-HEX`, cut to 32 and 64 characters. */
export function fallbackTag(digest: Digest): string {
  const [algorithm = '', hex = ''] = digest.split(':')
  return `${algorithm.slice(0, 32)}-${hex.slice(0, 64)}`
}

function emptyIndex(): Listing['index'] {
  return { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }
}

function readIndex(body: Buffer): Listing['index'] {
  try {
    const value: unknown = parseJson(body)
    const { manifests } = value as { manifests?: unknown }
    if (Array.isArray(manifests)) {
      const entries = manifests.filter((entry) => typeof entry === 'object' && entry !== null)
      return { ...emptyIndex(), ...(value as object), manifests: entries }
    }
  } catch {}
  throw new ShoalError('PROTOCOL', 'upstream gave no index of referrers')
}
