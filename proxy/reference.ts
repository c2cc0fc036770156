import { type Digest, parseDigest, ShoalError } from '../base/index.ts'
import { CHECKPOINTS_HOST, isTag, looksLikeHost, parseHost, parseRepository } from './registry/names.ts'
import type { RepositoryRef } from './types.ts'

/** An image's name taken apart. With a digest the tag is only what people call it. */
export interface Reference extends RepositoryRef {
  tag: string | undefined
  digest: Digest | undefined
}

/**
 * Reads `[HOST[:PORT]/]NAME[:TAG][@DIGEST]` as docker does: without a host it is `defaultHost`, Docker Hub's own images are
 * below `library/`, and without tag and digest the tag is `latest`. @throws NAME_INVALID | DIGEST_INVALID
 */
export function parseReference(text: string, defaultHost = 'docker.io'): Reference {
  const trimmed = text.trim()
  const at = trimmed.indexOf('@')
  const digest = at < 0 ? undefined : parseDigest(trimmed.slice(at + 1))
  const named = at < 0 ? trimmed : trimmed.slice(0, at)
  const colon = named.lastIndexOf(':')
  // A colon before the last slash belongs to a host's port.
  const tagged = colon > named.lastIndexOf('/')
  const name = tagged ? named.slice(0, colon) : named
  const tag = tagged ? named.slice(colon + 1) : digest === undefined ? 'latest' : undefined
  if (tag !== undefined && !isTag(tag))
    throw new ShoalError('NAME_INVALID', `not a tag: ${tag.slice(0, 130)}`)
  const slash = name.indexOf('/')
  const first = name.slice(0, Math.max(0, slash))
  const hosted = slash > 0 && looksLikeHost(first)
  const host = parseHost(hosted ? first : defaultHost)
  if (host === CHECKPOINTS_HOST)
    throw new ShoalError(
      'NAME_INVALID',
      `${named} is a checkpoint, not an image: shoal restore brings it back`,
    )
  const repository = parseRepository(host, hosted ? name.slice(slash + 1) : name)
  return { host, repository, tag, digest }
}

/** The reference in full, `docker.io/library/redis:7` for `redis:7`. */
export function formatReference({ host, repository, tag, digest }: Reference): string {
  const name = `${host}/${repository}`
  return `${name}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`
}
