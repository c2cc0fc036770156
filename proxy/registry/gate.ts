import { type Digest, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Hints, Storing } from '../../manager/types.ts'
import type { Head, Kind } from '../types.ts'
import type { Access } from './access.ts'
import { type Ask, type AskHead, labelOf } from './ask.ts'
import { isOutage } from './failure.ts'
import { lookUp } from './hints.ts'
import type { Links } from './links.ts'
import { createShare } from './share.ts'

/** Lets through what upstream would let through: no content goes to a client before the gate has said yes. */
export interface Gate {
  /**
   * Resolves when the asker may have the content as a part of this repository; with what upstream said of it, where
   * upstream had to be asked. @throws what upstream answered; the outage where the offline policy says no
   */
  admit(ask: Ask, kind: Kind, digest: Digest): Promise<Head | undefined>
  /**
   * True when the yes is likely enough to begin fetching while `admit` is still asking: the asker may read the
   * repository, and a manifest of it names the digest.
   */
  promising(ask: Ask, digest: Digest): Promise<boolean>
  /** A question to upstream about a whole repository's content: notes what the answer says about the asker's rights. */
  noting<T>(ask: Ask, question: () => Promise<T>): Promise<T>
  /** While upstream cannot be asked (`outage` says so): the policy's word. @throws of the outage's code */
  offline(ask: Ask, outage: ShoalError): Promise<void>
}

/** Under this key neighbours tell each other that a manifest is in a repository. */
export function manifestHint(label: string, digest: Digest): string {
  return `tag/${label}@${digest}`
}

export function createGate(parts: {
  head: AskHead
  access: Access
  links: Links
  hints: Hints
  storing: Pick<Storing, 'ofRepository'>
  /** What no repository of an upstream gives away, unless upstream itself says that it has it. */
  isSecret: (digest: Digest) => Promise<boolean>
  log: Log
}): Gate {
  const { head, access, links, hints, storing, isSecret, log } = parts
  const share = createShare<Head>()

  async function noting<T>(ask: Ask, question: () => Promise<T>): Promise<T> {
    try {
      const answer = await question()
      access.grant(ask.ref, ask.subject)
      return answer
    } catch (error) {
      if (isShoalError(error, 'UNAUTHORIZED', 'DENIED')) access.revoke(ask.ref, ask.subject)
      throw error
    }
  }

  function find(ask: Ask, kind: Kind, digest: Digest): Promise<Head> {
    const key = `${labelOf(ask.ref)} ${kind} ${digest} ${ask.subject}`
    return share(key, ask.signal, (signal) =>
      noting(ask, async () => {
        const found = await head({ ...ask, signal }, kind, digest)
        links.add(ask.ref, [digest], 'proven')
        if (kind === 'manifests') hints.publish(manifestHint(labelOf(ask.ref), digest), { digest })
        return found
      }),
    )
  }

  async function offline(ask: Ask, outage: ShoalError): Promise<void> {
    if (await access.offline(ask.ref, ask.subject, ask.signal)) return
    throw new ShoalError(
      outage.code,
      `${ask.ref.host} cannot be asked whether this client may read ${ask.ref.repository}: ${outage.message}`,
      { cause: outage, details: outage.details },
    )
  }

  async function belongs(ask: Ask, kind: Kind, digest: Digest): Promise<boolean> {
    if ((await links.level(ask.ref, digest)) !== undefined) return true
    const stored = await storing.ofRepository(labelOf(ask.ref))
    if (stored.some((image) => image.blobs.some((blob) => blob.digest === digest))) {
      links.add(ask.ref, [digest], 'named')
      return true
    }
    if (kind !== 'manifests') return false
    const value = await lookUp(hints, manifestHint(labelOf(ask.ref), digest), ask.signal)
    if (typeof value !== 'object' || value === null) return false
    links.add(ask.ref, [digest], 'named')
    return true
  }

  async function admit(ask: Ask, kind: Kind, digest: Digest): Promise<Head | undefined> {
    const { ref, subject } = ask
    if (access.entitled(ref, subject) && (await links.level(ref, digest)) === 'proven') return undefined
    try {
      return await find(ask, kind, digest)
    } catch (error) {
      if (!isOutage(error) || ask.signal.aborted) throw error
      await offline(ask, error)
      // An open door asks for no proof; else a stranger's digest could be read under the name of a public repository.
      const open = access.open && !(await isSecret(digest))
      if (!open && !(await belongs(ask, kind, digest))) throw error
      log.debug({ repository: labelOf(ref), digest }, 'let in while upstream is unreachable')
      return undefined
    }
  }

  async function promising(ask: Ask, digest: Digest): Promise<boolean> {
    return access.entitled(ask.ref, ask.subject) && (await links.level(ask.ref, digest)) !== undefined
  }

  return { admit, promising, noting, offline }
}
