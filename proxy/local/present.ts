import type { Digest } from '../../base/index.ts'
import type { LocalRepository } from './types.ts'

/**
 * The size of a blob that a client need not upload: it is part of the repository, and whole on this node or named by a manifest, so
 * that the site keeps it. What was uploaded and never named, or is no longer, may have been evicted everywhere.
 */
export type Present = (repository: string, digest: Digest) => Promise<number | undefined>

export function createPresent(parts: {
  repository: Pick<LocalRepository, 'link' | 'manifests' | 'renewLink'>
  holds: (digest: Digest) => Promise<boolean>
}): Present {
  const { repository, holds } = parts

  async function isNamed(name: string, digest: Digest): Promise<boolean> {
    for await (const [, manifest] of repository.manifests(name)) {
      if (manifest.parts.some((part) => part.digest === digest)) return true
    }
    return false
  }

  return async (name, digest) => {
    const size = await repository.link(name, digest)
    if (size === undefined) return undefined
    if (!(await holds(digest)) && !(await isNamed(name, digest))) return undefined
    await repository.renewLink(name, digest, size)
    return size
  }
}
