import { type Digest, ShoalError } from '../../base/index.ts'
import type { Origin } from '../../manager/types.ts'
import type { Gate } from '../registry/gate.ts'
import type { Tags } from '../registry/tags.ts'
import type { LocalRepository } from './types.ts'

/**
 * The pull side's parts for what was pushed here. Shared records say what a tag names and what belongs to a repository; nobody is
 * asked, nothing is stale, and everybody may read.
 */
export interface LocalPulling {
  tags: Pick<Tags, 'resolve'>
  gate: Gate
  /** Where a blob comes from that this site does not have: from other sites of the cluster. */
  origin: (digest: Digest) => Origin
}

export function createLocalPulling(parts: {
  repository: LocalRepository
  elsewhere: (digest: Digest) => Origin
  now: () => number
}): LocalPulling {
  const { repository, elsewhere, now } = parts

  const absent = (name: string, what: string): ShoalError =>
    new ShoalError('NOT_FOUND', `local/${name} has no ${what}`)

  return {
    tags: {
      async resolve({ ref }, tag) {
        const digest = await repository.tag(ref.repository, tag)
        const manifest = digest && (await repository.manifest(ref.repository, digest))
        if (!manifest) throw absent(ref.repository, `tag ${tag}`)
        return { digest, mediaType: manifest.mediaType, at: now(), stale: false }
      },
    },
    gate: {
      async admit({ ref }, kind, digest) {
        const name = ref.repository
        if (kind === 'manifests') {
          const manifest = await repository.manifest(name, digest)
          if (!manifest) throw absent(name, `manifest ${digest}`)
          return { digest, size: manifest.size, mediaType: manifest.mediaType }
        }
        const size = await repository.link(name, digest)
        if (size === undefined) throw absent(name, `blob ${digest}`)
        return { digest, size, mediaType: undefined }
      },
      // The records are here: there is no answer to run ahead of.
      promising: async () => false,
      noting: (_ask, question) => question(),
      offline: async () => {},
    },
    origin: elsewhere,
  }
}
