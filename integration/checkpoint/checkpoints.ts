import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager, PeerId } from '../../manager/index.ts'
import { type Claim, createClaims } from '../claims.ts'
import type { Runtimes } from '../runtime/index.ts'
import type { States } from '../state/types.ts'
import { type Collect, createBaseImages } from './base-image.ts'
import { createCheckpoint } from './create.ts'
import type { CheckpointDocument } from './document.ts'
import { createExpiry } from './expiry.ts'
import { createFreezing, type Unfinished } from './freezing.ts'
import { parseCheckpointReference } from './names.ts'
import type { Parts } from './parts.ts'
import { createPublished } from './published.ts'
import { restoreCheckpoint } from './restore.ts'
import { createSchedules, type Planned } from './schedules.ts'
import { openDocument } from './sealing.ts'
import { createServed, type Served } from './served.ts'
import { createSlots } from './slots.ts'
import type { Checkpoint, Checkpoints } from './types.ts'

/** Checkpoints of this node's containers, and those of the whole cluster; see types.ts. */
export async function createCheckpoints(deps: {
  manager: Pick<Manager, 'self' | 'identity' | 'members' | 'records' | 'storing' | 'elsewhere'>
  store: Pick<BlockStore, 'records'>
  states: States
  runtimes: Pick<Runtimes, 'list' | 'get'>
  collect: Collect
  /** What all nodes of the cluster know and nobody else does. */
  secret: Uint8Array
  /** Shared with whoever else freezes containers; default: nobody does. */
  claim?: Claim
  isMoving?: Parts['isMoving']
  /** A directory of its own, for what is on its way in or out. */
  dir: string
  log: Log
  /** ms since the epoch; default: the cluster's time, since expiry is judged by other nodes, too. */
  now?: () => number
  /** ms between two looks for what has expired. */
  sweepMs?: number
}): Promise<Checkpoints & { served: Served; sweep(signal: AbortSignal, grace?: number): Promise<void> }> {
  const { manager, store, states, runtimes, dir, log } = deps
  const now = deps.now ?? deps.manager.records.time
  const { self, identity, storing } = manager
  const trust = { identity, secret: deps.secret }
  const { records, members } = manager
  const published = createPublished({ records, members, self: self.id, trust, log, now })
  const images = createBaseImages({ collect: deps.collect, manager, log })
  const stop = new AbortController()

  const parts: Parts = {
    self: self.id,
    site: self.site,
    identity,
    storing,
    states,
    runtimes,
    images,
    published,
    slots: createSlots({ records, storing, self: self.id, now }),
    dir,
    log,
    now,
    freezing: createFreezing({
      records: store.records<Unfinished>('checkpoints.unfinished'),
      runtime: (name) => runtimes.get(name),
      log,
    }),
    origin: ({ digest }) => manager.elsewhere(digest),
    claim: deps.claim ?? createClaims(),
    isMoving: deps.isMoving ?? (async () => false),
  }
  const running = new Set<Promise<unknown>>()
  /** What is under way ends before the daemon does: a frozen container goes on first. */
  function tracked<T>(work: Promise<T>): Promise<T> {
    running.add(work)
    const end = (): boolean => running.delete(work)
    work.then(end, end)
    return work
  }

  // Nothing here refers to what the last daemon has left on its way.
  for (const name of await readdir(dir).catch(() => [])) {
    if (/^(?:create|restore)-/.test(name)) await rm(join(dir, name), { recursive: true, force: true })
  }
  await parts.freezing.recover(stop.signal)
  const expiry = createExpiry({
    published,
    storing,
    images,
    self: self.id,
    site: self.site,
    log,
    now,
    ...(deps.sweepMs === undefined ? {} : { everyMs: deps.sweepMs }),
  })
  const within = (signal: AbortSignal): AbortSignal => AbortSignal.any([signal, stop.signal])
  const schedules = createSchedules({
    records: store.records<Planned>('checkpoints.schedules'),
    create: async (request) =>
      (await tracked(createCheckpoint(parts, { ...request, signal: within(request.signal) }))).document,
    runtimes,
    published,
    expiry,
    self: self.id,
    log,
    now,
  })
  await schedules.resume()

  function peers(given: PeerId[]): PeerId[] {
    return given.map((one) => {
      const member = members.find(one)
      if (!member) throw new ShoalError('NOT_FOUND', `there is no node ${one}`)
      return member.id
    })
  }

  function shown(document: CheckpointDocument): Checkpoint {
    const { name, version, digest, recipe, container, needs, node, site, createdAt, expiresAt } = document
    const { size, added, copies, sealed } = document
    const mine = !sealed || sealed.keys.some((key) => key.node === self.id)
    return {
      name,
      version,
      digest,
      recipe,
      container,
      needs,
      node,
      site,
      createdAt,
      expiresAt,
      size,
      added,
      copies,
      recreation: mine ? openDocument(document, self.id, identity).inside.recreation : undefined,
      sealedFor: sealed?.keys.map((key) => key.node),
    }
  }

  return {
    async create(request) {
      const encryptFor = request.encryptFor && peers(request.encryptFor)
      const { document, seconds } = await tracked(
        createCheckpoint(parts, {
          ...request,
          ...(encryptFor ? { encryptFor } : {}),
          signal: within(request.signal),
        }),
      )
      return { checkpoint: shown(document), seconds }
    },
    list: async () => (await published.list()).map(shown),
    inspect: async (reference) => shown(await published.find(parseCheckpointReference(reference))),
    async remove(reference, signal) {
      const parsed = parseCheckpointReference(reference)
      const found =
        parsed.version === undefined && parsed.digest === undefined
          ? await published.list(parsed.name)
          : [await published.find(parsed)]
      if (found.length === 0) throw new ShoalError('NOT_FOUND', `there is no checkpoint ${parsed.name}`)
      for (const document of found) await expiry.remove(document, within(signal))
      return found.length
    },
    async restore(request) {
      const document = await published.find(parseCheckpointReference(request.reference))
      return tracked(restoreCheckpoint(parts, document, { ...request, signal: within(request.signal) }))
    },
    schedule: (request, signal) =>
      schedules.put(
        { ...request, ...(request.encryptFor ? { encryptFor: peers(request.encryptFor) } : {}) },
        within(signal),
      ),
    schedules: () => schedules.list(),
    unschedule: (name) => schedules.remove(name),
    served: createServed({ published, states, images, origin: parts.origin, self: self.id, identity }),
    sweep: (signal, grace = 0) => expiry.sweep(within(signal), grace),
    async close() {
      stop.abort(new ShoalError('ABORTED', 'the daemon is stopping'))
      await schedules.close()
      await Promise.allSettled(running)
      await expiry.close()
    },
  }
}
