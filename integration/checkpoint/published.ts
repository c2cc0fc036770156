import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Membership, PeerId, SharedRecords } from '../../manager/index.ts'
import { createPutEverywhere } from '../../manager/records/index.ts'
import {
  type CheckpointDocument,
  keyOf,
  PREFIX_KEY,
  readDocument,
  signDocument,
  type Trust,
} from './document.ts'
import type { CheckpointReference } from './names.ts'

/** How often a version is given up for the next one, when others publish under the same name at the same time. */
const TRIES = 20

/** The checkpoints of the cluster, as shared records: `checkpoint/NAME/NODE/SLOT`. Only what proves to be of the cluster is given out. */
export interface Published {
  /** All that have not expired, by name and version; of one version that two nodes published apart the older one first. */
  list(name?: string): Promise<CheckpointDocument[]>
  /** @throws NOT_FOUND | DENIED where there is one that must not be trusted */
  find(reference: CheckpointReference): Promise<CheckpointDocument>
  /**
   * Publishes under the next version. Resolves when `copies` nodes have the record, and all that are there were told.
   * @throws NO_QUORUM | USAGE for a configuration that is too large
   */
  publish(draft: Omit<CheckpointDocument, 'version'>, signal: AbortSignal): Promise<CheckpointDocument>
  /** False where it was not there any more: its place may have the next one already. */
  remove(document: CheckpointDocument, signal: AbortSignal): Promise<boolean>
  /** Also those that have expired. */
  all(): AsyncIterable<CheckpointDocument>
}

export function createPublished(deps: {
  records: SharedRecords
  members: Pick<Membership, 'list'>
  self: PeerId
  trust: Trust
  log: Log
  now: () => number
}): Published {
  const { records, self, trust, log, now } = deps
  const put = createPutEverywhere(deps)
  let last: Promise<unknown> = Promise.resolve()

  const isLive = ({ expiresAt }: CheckpointDocument): boolean => expiresAt === undefined || expiresAt > now()

  async function* read(prefix: string): AsyncGenerator<CheckpointDocument | ShoalError> {
    for await (const { key, value } of records.entries(prefix)) {
      try {
        yield readDocument(key, value, trust)
      } catch (error) {
        if (!isShoalError(error, 'DENIED')) throw error
        log.warn({ key, error: error.message }, 'a checkpoint is refused')
        yield error
      }
    }
  }

  async function* all(prefix = PREFIX_KEY): AsyncGenerator<CheckpointDocument> {
    for await (const one of read(prefix)) if (!(one instanceof ShoalError)) yield one
  }

  async function list(name?: string): Promise<CheckpointDocument[]> {
    const found = (
      await Array.fromAsync(all(name === undefined ? PREFIX_KEY : `${PREFIX_KEY}${name}/`))
    ).filter(isLive)
    return found.sort(compare)
  }

  async function find({ name, version, digest }: CheckpointReference): Promise<CheckpointDocument> {
    const found = (await list(name)).filter((one) => digest === undefined || one.digest === digest)
    const wanted = version ?? found.at(-1)?.version
    const best = found.find((one) => one.version === wanted)
    if (best) return best
    for await (const one of read(`${PREFIX_KEY}${name}/`)) if (one instanceof ShoalError) throw one
    const what = digest ? `@${digest}` : version === undefined ? '' : `:${version}`
    throw new ShoalError('NOT_FOUND', `there is no checkpoint ${name}${what}`)
  }

  /** Also what has expired, and is not taken away yet. */
  const versions = (name: string): Promise<CheckpointDocument[]> =>
    Array.fromAsync(all(`${PREFIX_KEY}${name}/`))

  async function publish(
    draft: Omit<CheckpointDocument, 'version'>,
    signal: AbortSignal,
  ): Promise<CheckpointDocument> {
    for (let tries = 0; tries < TRIES; tries++) {
      const known = (await versions(draft.name)).map(({ version }) => version)
      const document = { ...draft, version: 1 + Math.max(0, ...known) }
      const key = keyOf(document)
      try {
        await put(key, signDocument(document, trust), draft.copies, signal)
      } catch (error) {
        // What stands here would spread later, and nobody was told of it.
        await records.put(key, undefined, { copies: 1 }).catch(() => {})
        throw error
      }
      const rivals = (await versions(draft.name)).filter(
        (one) => one.version === document.version && one.node !== self,
      )
      if (rivals.length === 0) return document
      // Whoever sees another gives way, since that one may have been acknowledged already. Both may: then chance decides.
      await put(key, undefined, 1, signal)
      await sleep(50 + Math.random() * 450 * (tries + 1), undefined, { signal })
    }
    throw new ShoalError('BUSY', `too many nodes publish checkpoints ${draft.name} at the same time`)
  }

  return {
    list,
    find,
    publish(draft, signal) {
      // Two of this node would write the same key.
      const turn = last.then(() => publish(draft, signal))
      last = turn.catch(() => {})
      return turn
    },
    async remove(document, signal) {
      const key = keyOf(document)
      const record = await records.get(key)
      if (record?.value === undefined) return false
      const there = readDocument(key, record.value, trust)
      if (there.version !== document.version || there.digest !== document.digest) return false
      await put(key, undefined, 1, signal)
      return true
    },
    all: () => all(),
  }
}

function compare(a: CheckpointDocument, b: CheckpointDocument): number {
  if (a.name !== b.name) return a.name < b.name ? -1 : 1
  return a.version - b.version || a.createdAt - b.createdAt || (a.node < b.node ? -1 : 1)
}
