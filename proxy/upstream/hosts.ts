import { ShoalError } from '../../base/index.ts'
import type { RepositoryRef } from '../types.ts'

/** Where a repository's requests go. */
export interface Target {
  /** The name people write, in canonical form. */
  host: string
  /** Scheme, host and port. */
  origin: string
  /** Path of the repository, without a slash at its end: `/v2/library/alpine`. */
  path: string
  /** The name under which credentials are looked up that were not given for `ref.host` itself. */
  credentialHost: string
  /** The repository's name as the registry behind the mapping knows it. */
  repository: string
  /** `HOST/REPOSITORY` as people write it. */
  label: string
}

export interface Hosts {
  /** @throws NAME_INVALID */
  resolve(ref: RepositoryRef): Target
  /** Where a host is, whatever the repository. @throws NAME_INVALID */
  place(host: string): Place
}

type Place = Pick<Target, 'host' | 'origin' | 'credentialHost'> & { base: string }

/** Names of Docker Hub; its own host is the only one that differs from what people write. */
const HUB = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io'])
const HUB_URL = 'https://registry-1.docker.io'
const HOST = /^(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?$/i
const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/
const LOCAL = /^(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?$/i

/** The name that Docker Hub and others go by in credentials and mappings. */
export function canonicalHost(host: string): string {
  const lower = host.toLowerCase()
  return HUB.has(lower) ? 'docker.io' : lower
}

/**
 * Maps image names to registries. A mirror's URL may have a path: `https://HOST/PREFIX` means names that begin with PREFIX
 * (`/v2/PREFIX/NAME`, as pull-through projects of Harbor and others have it), while a path with a segment `v2` is the
 * API's root as it stands (`https://HOST/registry/v2`). @throws CONFIG
 */
export function createHosts(mirrors: Record<string, string>): Hosts {
  const mapped = new Map<string, { origin: string; base: string }>()
  for (const [host, text] of Object.entries(mirrors)) mapped.set(canonicalHost(host), parseMirror(host, text))
  const hub = parseMirror('docker.io', HUB_URL)

  function place(name: string): Place {
    const host = canonicalHost(name)
    if (!HOST.test(host)) throw new ShoalError('NAME_INVALID', `not a registry's name: ${name.slice(0, 100)}`)
    const { origin, base } = mapped.get(host) ?? (host === 'docker.io' ? hub : unmapped(host))
    return { host, origin, base, credentialHost: canonicalHost(new URL(origin).host) }
  }

  function resolve(ref: RepositoryRef): Target {
    const { base, ...rest } = place(ref.host)
    if (!REPOSITORY.test(ref.repository) || ref.repository.length > 255) {
      throw new ShoalError('NAME_INVALID', `not a repository's name: ${ref.repository.slice(0, 300)}`)
    }
    const official = rest.host === 'docker.io' && !ref.repository.includes('/')
    const name = official ? `library/${ref.repository}` : ref.repository
    const path = `${base}/${name}`
    const repository = path.slice(path.indexOf('/v2/') + 4)
    return { ...rest, path, repository, label: `${rest.host}/${name}` }
  }

  return { resolve, place }
}

function unmapped(host: string): { origin: string; base: string } {
  const url = `${LOCAL.test(host) ? 'http' : 'https'}://${host}`
  if (!URL.canParse(url)) throw new ShoalError('NAME_INVALID', `not a registry's name: ${host.slice(0, 100)}`)
  return { origin: new URL(url).origin, base: '/v2' }
}

function parseMirror(host: string, text: string): { origin: string; base: string } {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (
    !url ||
    !/^https?:$/.test(url.protocol) ||
    url.username !== '' ||
    url.search !== '' ||
    url.hash !== ''
  ) {
    throw new ShoalError(
      'CONFIG',
      `upstream of ${host}: expected http(s)://HOST[:PORT][/PATH] without credentials, got ${text.replace(/\/\/[^/@]*@/, '//***@')}`,
    )
  }
  const path = url.pathname.replace(/\/+$/, '')
  return { origin: url.origin, base: /(?:^|\/)v2(?:\/|$)/.test(path) ? path : `/v2${path}` }
}
