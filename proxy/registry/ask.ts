import { ShoalError } from '../../base/index.ts'
import type { Credential, Head, Kind, RepositoryRef, Upstream } from '../types.ts'
import { throwIfGone } from './share.ts'

/** Larger manifests are refused, as registries do. */
export const MAX_MANIFEST = 4 * 1024 * 1024

/** One client's question: about which repository, with whose rights, and until when. */
export interface Ask {
  ref: RepositoryRef
  credential: Credential
  /** The credential's hash; see Access. */
  subject: string
  /** IDs of the nodes that the question came through, this one last. */
  via: string[]
  accept: string | undefined
  signal: AbortSignal
}

/** `HOST/REPOSITORY`: how a repository is called in records, hints and logs. */
export function labelOf(ref: RepositoryRef): string {
  return `${ref.host}/${ref.repository}`
}

/** HEAD upstream for an asker. @throws as Upstream.head */
export type AskHead = (ask: Ask, kind: Kind, reference: string) => Promise<Head>

export function createAskHead(parts: { upstream: Upstream; timeoutMs: number }): AskHead {
  const { upstream, timeoutMs } = parts
  return async ({ ref, credential, via, accept, signal }, kind, reference) => {
    throwIfGone(signal)
    const wanted = kind === 'manifests' && accept !== undefined ? { accept } : {}
    return upstream.head(ref, kind, reference, { credential, via, signal, timeoutMs, ...wanted })
  }
}

/** All bytes of a body in one buffer of their own. @throws PROTOCOL when there are more than `limit` */
export async function collect(body: AsyncIterable<Uint8Array>, limit: number): Promise<Buffer> {
  const parts: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size > limit) throw new ShoalError('PROTOCOL', `a manifest of more than ${limit} bytes is refused`)
    // The chunk's memory is used again for the next one.
    parts.push(Buffer.from(chunk))
  }
  return Buffer.concat(parts, size)
}
