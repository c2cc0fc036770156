import { type Digest, isShoalError, type Log } from '../../base/index.ts'
import type { Manager } from '../../manager/index.ts'
import type { Collected } from '../../proxy/index.ts'
import type { Recreation } from '../runtime/types.ts'
import type { BaseDescriptor } from './artifact.ts'

/** Reads an image's manifests with the node's own rights, and names its blobs; see `collectImage` of the proxy. */
export type Collect = (reference: string, signal: AbortSignal) => Promise<Collected>

export interface BaseImage {
  collected: Collected
  /** What a runtime is to pull: the name that it had, where that still is the same image, else by its digest. */
  reference: string
  descriptor: BaseDescriptor | undefined
}

/** The image that a container was made of, as the swarm has it. */
export interface BaseImages {
  /** @throws what the proxy throws: NOT_FOUND | UPSTREAM_UNREACHABLE | DENIED | … */
  find(image: NonNullable<Recreation['image']>, signal: AbortSignal): Promise<BaseImage>
  /** Has the site store it, where it does not yet: then it is there when the registry is not. */
  keep(image: BaseImage, copies: number, signal: AbortSignal): Promise<void>
  /** The site need not keep it any longer for checkpoints' sake. What somebody else has stored since stays. */
  letGo(name: string, signal: AbortSignal): Promise<void>
  /** Names of the images that are stored in this site for checkpoints' sake. */
  kept(): Promise<string[]>
}

/** The first part of a name that only means this node's own registry, such as `127.0.0.1:5080`. */
const OWN_REGISTRY = /^(?:127(?:\.\d{1,3}){3}|localhost|\[::1\]):\d{1,5}\//

/** An image's name without the registry that it was pulled through. */
export function properName(reference: string): string {
  return reference.replace(OWN_REGISTRY, '')
}

export function createBaseImages(deps: {
  collect: Collect
  manager: Pick<Manager, 'records' | 'storing' | 'self'>
  log: Log
}): BaseImages {
  const { collect, manager, log } = deps
  const { records, storing, self } = manager
  const prefix = `checkpoint-image/${encodeURIComponent(self.site)}/`

  async function find(image: NonNullable<Recreation['image']>, signal: AbortSignal): Promise<BaseImage> {
    const name = properName(image.reference)
    try {
      const collected = await collect(name, signal)
      if (image.digest === undefined || has(collected, image.digest)) return made(collected, image.reference)
    } catch (error) {
      if (image.digest === undefined || !isShoalError(error) || signal.aborted) throw error
      log.debug({ name, error: error.message }, 'a base image is looked for by its digest')
    }
    const repository = name.replace(/@.*$/, '').replace(/:[^/:]*$/, '')
    const prefixed = image.reference.slice(0, image.reference.length - name.length)
    const collected = await collect(`${repository}@${image.digest}`, signal)
    return made(collected, `${prefixed}${repository}@${image.digest}`)
  }

  return {
    find,
    async keep({ collected }, copies, signal) {
      const { name, digest, blobs, anonymous, origin } = collected
      const before = await storing.find(name)
      if (before?.digest === digest && before.copies >= copies) return
      // What somebody else has stored is not to be let go with the checkpoint.
      const ours = before === undefined || (await records.get(prefix + name))?.value !== undefined
      await storing.store(
        { name, digest, copies, blobs, ...(anonymous ? { anonymous } : {}) },
        { origin, signal },
      )
      const storedAt = (await storing.find(name))?.storedAt
      if (ours) await records.put(prefix + name, { storedAt }, { copies: 1, signal })
    },
    async letGo(name, signal) {
      const record = await records.get(prefix + name)
      if (record?.value === undefined) return
      const { storedAt } = record.value as { storedAt?: number }
      const stored = await storing.find(name)
      if (stored && stored.storedAt === storedAt) await storing.forget(name, signal)
      await records.put(prefix + name, undefined, { copies: 1, signal })
    },
    async kept() {
      const found: string[] = []
      for await (const { key } of records.entries(prefix)) found.push(key.slice(prefix.length))
      return found
    },
  }
}

function has({ digest, blobs }: Collected, wanted: Digest): boolean {
  return digest === wanted || blobs.some((blob) => blob.digest === wanted)
}

function made(collected: Collected, reference: string): BaseImage {
  const blob = collected.blobs.find(({ digest }) => digest === collected.digest)
  const { mediaType } = blob ?? {}
  return {
    collected,
    reference,
    descriptor: blob && mediaType ? { mediaType, digest: blob.digest, size: blob.size } : undefined,
  }
}
