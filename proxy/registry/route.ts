import { type Digest, parseDigest, ShoalError } from '../../base/index.ts'
import type { RepositoryRef } from '../types.ts'
import { isTag, looksLikeHost, parseHost, parseRepository } from './names.ts'

/** What a URL asks for. */
export type Route =
  | { type: 'ping' }
  | { type: 'login'; query: URLSearchParams }
  | { type: 'manifest'; ref: RepositoryRef; tag: string }
  | { type: 'manifest'; ref: RepositoryRef; digest: Digest }
  | { type: 'blob'; ref: RepositoryRef; digest: Digest }
  | { type: 'tags'; ref: RepositoryRef; page: Page }
  | { type: 'referrers'; ref: RepositoryRef; digest: Digest; page: Page }
  | { type: 'uploads'; ref: RepositoryRef; page: Page }
  | { type: 'upload'; ref: RepositoryRef; id: string; page: Page }

/** Of a list: the path as the client wrote it, for links to the next page, and its query without `ns`. */
export interface Page {
  path: string
  ns: string | undefined
  query: URLSearchParams
}

/**
 * Reads a request's URL. Which upstream: `?ns=HOST`, else a first path component that looks like a host and has more after it,
 * else `defaultHost`. Segments are decoded one by one, and none may
 * hold an encoded slash: boundaries are where everybody on the way saw them.
 * @throws ShoalError NAME_INVALID | DIGEST_INVALID | NOT_FOUND
 */
export function parseRoute(url: string, defaultHost: string): Route {
  const mark = url.indexOf('?')
  const path = mark < 0 ? url : url.slice(0, mark)
  const query = new URLSearchParams(mark < 0 ? '' : url.slice(mark + 1))
  const segments = path.split('/').slice(1).map(decode)
  if (segments[0] !== 'v2') throw nothing()
  if (segments.length === 1 || (segments.length === 2 && segments[1] === '')) return { type: 'ping' }
  if (segments.length === 2 && segments[1] === 'token') return { type: 'login', query }

  const [kind, reference] = segments.slice(-2)
  if (kind === 'uploads' && segments.at(-3) === 'blobs')
    return uploadRoute(segments, path, query, defaultHost)
  const name = segments.slice(1, -2)
  if (name.length === 0 || kind === undefined || reference === undefined) throw nothing()
  if (!['manifests', 'blobs', 'tags', 'referrers'].includes(kind)) throw nothing()
  const { ref, page } = place(name, path, query, defaultHost)
  switch (kind) {
    case 'manifests':
      // No tag has a colon, so what has one was meant as a digest.
      if (reference.includes(':')) return { type: 'manifest', ref, digest: parseDigest(reference) }
      if (!isTag(reference)) throw new ShoalError('NOT_FOUND', `not a tag: ${reference.slice(0, 80)}`)
      return { type: 'manifest', ref, tag: reference }
    case 'blobs':
      return { type: 'blob', ref, digest: parseDigest(reference) }
    case 'referrers':
      return { type: 'referrers', ref, digest: parseDigest(reference), page }
    default:
      if (reference !== 'list') throw nothing()
      return { type: 'tags', ref, page }
  }
}

/** `…/blobs/uploads/` begins an upload, `…/blobs/uploads/ID` is one. */
function uploadRoute(segments: string[], path: string, query: URLSearchParams, defaultHost: string): Route {
  const name = segments.slice(1, -3)
  if (name.length === 0) throw nothing()
  const at = place(name, path, query, defaultHost)
  const id = segments.at(-1) ?? ''
  return id === '' ? { type: 'uploads', ...at } : { type: 'upload', ...at, id }
}

function place(
  name: string[],
  path: string,
  query: URLSearchParams,
  defaultHost: string,
): { ref: RepositoryRef; page: Page } {
  const ns = query.get('ns') || undefined
  const ref = parseUpstream(name, ns, defaultHost)
  query.delete('ns')
  return { ref, page: { path, ns, query } }
}

/** The repository of a name as it stands in a URL. @throws NAME_INVALID */
export function parseUpstream(name: string[], ns: string | undefined, defaultHost: string): RepositoryRef {
  const [first = '', ...rest] = name
  const prefixed = ns === undefined && rest.length > 0 && looksLikeHost(first)
  const host = parseHost(ns ?? (prefixed ? first : defaultHost))
  return { host, repository: parseRepository(host, (prefixed ? rest : name).join('/')) }
}

function decode(segment: string): string {
  let text: string | undefined
  try {
    text = decodeURIComponent(segment)
  } catch {}
  if (text === undefined || text.includes('/')) {
    throw new ShoalError('NAME_INVALID', 'the path is not well encoded')
  }
  return text
}

function nothing(): ShoalError {
  return new ShoalError('NOT_FOUND', 'there is nothing here; the registry is below /v2/')
}
