import type { Digest } from '../../base/index.ts'
import type { LocalRepository, TagWrite } from './types.ts'

interface Write {
  /** Absent: the tag was deleted. */
  digest?: Digest
  /** ms since the epoch, by the cluster's hybrid logical clock. */
  at: number
  /** Peer ID of the node that it was pushed to. */
  node: string
}

/** One repository as the API shows it. */
export interface LocalView {
  name: string
  tags: (Write & { tag: string; digest: Digest; beaten: Write[] })[]
  manifests: { digest: Digest; mediaType: string; size: number; subject?: Digest }[]
}

/** All local repositories, or the one that is asked for. */
export async function listLocal(repository: LocalRepository, only?: string): Promise<LocalView[]> {
  const names = await repository.repositories()
  const views: LocalView[] = []
  for (const name of names) {
    if (only !== undefined && `local/${name}` !== only) continue
    const view: LocalView = { name: `local/${name}`, tags: [], manifests: [] }
    for await (const tag of repository.tags(name)) {
      const { name: label, digest, beaten } = tag
      view.tags.push({ tag: label, ...write(tag), digest, beaten: beaten.map(write) })
    }
    for await (const [digest, { mediaType, size, subject }] of repository.manifests(name)) {
      view.manifests.push({ digest, mediaType, size, ...(subject === undefined ? {} : { subject }) })
    }
    views.push(view)
  }
  return views
}

function write({ digest, stamp }: TagWrite): Write {
  return { ...(digest === undefined ? {} : { digest }), at: stamp.ms, node: stamp.node }
}
