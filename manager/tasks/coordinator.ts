import type { Digest, Log } from '../../base/index.ts'
import { BLOCK_SIZE, type BlockStore } from '../../blockstore/index.ts'
import {
  createLedger,
  type DispatchAnswer,
  type DispatchRequest,
  fullBitfield,
  type Ledger,
  type PeerId,
  rendezvous,
} from '../../scheduler/index.ts'
import type { Membership, Rpc } from '../types.ts'
import { createBlocks } from './blocks.ts'
import type { Signer } from './cuts.ts'
import {
  digestField,
  fields,
  list,
  MAP_PAGE,
  packAnswer,
  readAnswer,
  readBits,
  readCuts,
  readDispatch,
} from './messages.ts'

/** Nodes that are told of a complete blob, and asked by a coordinator that does not know it. */
export const REPLICAS = 2
/** So long they are waited for. Of a stored blob, whoever has more to do than to answer may still do so later. */
const LOOKUP_MS = 500
const LATE_MS = 5000
/** Between dispatches while such an answer may still come. */
const LATE_RETRY_MS = 100
/** So often everybody is asked anew for a stored blob of which a part seems to be nowhere. */
const PRIME_MS = 1000
const IDLE_MS = 10 * 60_000

/** Answers dispatches for the blobs of which this node is the coordinator: one ledger each, filled from who knows. */
export interface Coordinator {
  dispatch(digest: Digest, request: DispatchRequest): Promise<DispatchAnswer>
  /** A cut proved wrong; see Ledger.reject. */
  reject(digest: Digest, bad: { index: number; cid: string }[], shun: boolean): void
  /** This node lost blocks of the blob: its own entry in the ledger is set right. */
  refresh(digest: Digest): void
  /** This node got blocks without a task. */
  share(digest: Digest): void
  close(): void
}

interface Entry {
  ledger: Ledger
  createdAt: number
  primed: Promise<void> | undefined
  primedAt: number
  /** Nodes that have not answered since everybody was asked for the first time, or after the site changed. */
  late: Set<PeerId>
  /** Who pulls the blob says itself what it has. */
  pullers: Set<PeerId>
}

export function createCoordinator(deps: {
  members: Membership
  rpc: Rpc
  store: BlockStore
  signer: Signer
  /** Blobs that the site keeps: shares of them are everywhere, so that everybody is asked for them. */
  isStored: (digest: Digest) => boolean
  log: Log
  random: () => number
}): Coordinator {
  const { members, rpc, store, signer, isStored, log, random } = deps
  const self = members.self.id
  const entries = new Map<Digest, Entry>()

  function entryOf(digest: Digest): Entry {
    let entry = entries.get(digest)
    if (!entry) {
      const ledger = createLedger({ digest, blockSize: BLOCK_SIZE, random })
      entry = {
        ledger,
        createdAt: Date.now(),
        primed: undefined,
        primedAt: 0,
        late: new Set(),
        pullers: new Set(),
      }
      entries.set(digest, entry)
    }
    return entry
  }

  /** What this node's own disk and the next in order know, asked once: a new coordinator must not send anybody upstream in vain. */
  async function prime(digest: Digest, entry: Entry): Promise<void> {
    const { ledger, pullers, late } = entry
    const patient = entry.primedAt === 0
    const own = await ownHolding(digest)
    if (own && !pullers.has(self)) ledger.dispatch(own, Date.now())
    const site = members.site().map((member) => member.id)
    const order = rendezvous(digest, site).filter((id) => id !== self)
    if (!isStored(digest)) {
      await Promise.all(order.slice(0, REPLICAS).map((peer) => lookup(peer, digest, ledger)))
      return
    }
    const asked = order
      .filter((peer) => !pullers.has(peer))
      .map(async (peer) => {
        if (patient) late.add(peer)
        const credible = (holder: PeerId): boolean => holder === peer && !pullers.has(peer)
        await lookup(peer, digest, ledger, credible, patient ? LATE_MS : LOOKUP_MS)
        late.delete(peer)
      })
    await enough(ledger, asked)
  }

  function primed(digest: Digest, entry: Entry): Promise<void> {
    if (!entry.primed) {
      entry.primed = prime(digest, entry)
      entry.primedAt = Date.now()
    }
    return entry.primed
  }

  async function ownHolding(digest: Digest): Promise<DispatchRequest | undefined> {
    if (!(await store.blob(digest))) return undefined
    const blocks = await createBlocks({ digest, store, signer, log })
    if (blocks.bytesHere === 0) return undefined
    return {
      peer: self,
      version: 0,
      have: blocks.bits(),
      cuts: blocks.cuts(),
      pulling: false,
      ...(blocks.size === undefined ? {} : { size: blocks.size }),
      ...(blocks.mediaType === undefined ? {} : { mediaType: blocks.mediaType }),
    }
  }

  async function lookup(
    peer: PeerId,
    digest: Digest,
    ledger: Ledger,
    credible: (holder: PeerId) => boolean = () => true,
    timeoutMs = LOOKUP_MS,
  ): Promise<void> {
    try {
      const known = readAnswer(await rpc.request(peer, 'lookup', { digest }, { timeoutMs }))
      const facts = {
        ...(known.size === undefined ? {} : { size: known.size }),
        ...(known.mediaType === undefined ? {} : { mediaType: known.mediaType }),
      }
      for (const holder of known.holders) {
        if (holder.peer === self || !credible(holder.peer)) continue
        ledger.dispatch({ ...facts, ...holder, version: 0, cuts: known.cuts, pulling: false }, Date.now())
      }
    } catch (error) {
      log.debug({ peer, digest, error: String(error) }, 'lookup of a blob failed')
    }
  }

  /** What a ledger or the disk here knows, in the form of an answer to a node that wants nothing itself. */
  async function known(digest: Digest, asker: PeerId): Promise<DispatchAnswer> {
    const entry = entries.get(digest)
    const own = await ownHolding(digest)
    const none: DispatchAnswer = { version: 0, cuts: [], holders: [], leases: [], seeding: false, retryMs: 0 }
    const answer = entry
      ? entry.ledger.dispatch(
          { peer: asker, version: 0, have: new Uint8Array(0), cuts: [], pulling: false },
          Date.now(),
        )
      : none
    if (!own) return { ...answer, cuts: answer.cuts.slice(0, MAP_PAGE) }
    const others = answer.holders.filter((holder) => holder.peer !== self)
    return {
      ...answer,
      ...(own.size === undefined ? {} : { size: own.size }),
      ...(own.mediaType === undefined ? {} : { mediaType: own.mediaType }),
      cuts: (answer.cuts.length >= own.cuts.length ? answer.cuts : own.cuts).slice(0, MAP_PAGE),
      holders: [{ peer: self, have: own.have, pulling: false }, ...others],
    }
  }

  async function dispatch(digest: Digest, request: DispatchRequest): Promise<DispatchAnswer> {
    const entry = entryOf(digest)
    if (request.pulling) entry.pullers.add(request.peer)
    else entry.pullers.delete(request.peer)
    await primed(digest, entry)
    const answer = entry.ledger.dispatch(request, Date.now())
    if (!answer.refusal || !isStored(digest)) return answer
    if (entry.late.size > 0) {
      const { refusal: _, ...rest } = answer
      return { ...rest, retryMs: LATE_RETRY_MS }
    }
    if (Date.now() - entry.primedAt < PRIME_MS) return answer
    // Nobody could fetch it: then it matters whether a neighbour has it that was not heard of.
    entry.primed = undefined
    await primed(digest, entry)
    return entry.ledger.dispatch({ ...request, released: [] }, Date.now())
  }

  rpc.handle('dispatch', async (peer, body) => {
    const { digest, request } = readDispatch(peer, body)
    return packAnswer(await dispatch(digest, request))
  })
  rpc.handle('lookup', async (peer, body) => packAnswer(await known(digestField(fields(body).digest), peer)))
  rpc.handle('announce', async (peer, body) => {
    for (const item of list(fields(body).blobs, 'blobs', 4096)) {
      const f = fields(item)
      const size = Number(f.size)
      if (!Number.isSafeInteger(size) || size < 0 || size > 2 ** 40) continue
      const digest = digestField(f.digest)
      const mediaType = typeof f.mediaType === 'string' ? { mediaType: f.mediaType.slice(0, 255) } : {}
      const have = f.have === undefined ? fullBitfield(Math.ceil(size / BLOCK_SIZE)) : readBits(f.have)
      const cuts = readCuts(f.cuts)
      entryOf(digest).ledger.dispatch(
        { peer, version: 0, have, cuts, size, pulling: false, ...mediaType },
        Date.now(),
      )
    }
    return undefined
  })
  rpc.handle('correct', async (peer, body) => {
    const f = fields(body)
    if (f.have instanceof Uint8Array) entries.get(digestField(f.digest))?.ledger.correct(peer, f.have)
    return undefined
  })

  let present = new Set(members.site().map((member) => member.id))
  const stopListening = members.onChange(() => {
    const now = new Set(members.site().map((member) => member.id))
    if (now.size === present.size && [...now].every((peer) => present.has(peer))) return
    for (const peer of present) {
      if (now.has(peer)) continue
      for (const entry of entries.values()) {
        entry.ledger.forget(peer)
        entry.pullers.delete(peer)
      }
    }
    // Who comes may keep a share, and who went may have been the one that knew of another's.
    for (const [digest, entry] of entries) {
      if (!isStored(digest)) continue
      entry.primed = undefined
      entry.primedAt = 0
    }
    present = now
  })
  const sweep = setInterval(() => {
    for (const [digest, entry] of entries) {
      const idle = Date.now() - Math.max(entry.ledger.usedAt, entry.createdAt)
      if (idle > IDLE_MS && (entry.ledger.empty || !isReplica(digest))) entries.delete(digest)
    }
  }, 60_000)
  sweep.unref()

  function isReplica(digest: Digest): boolean {
    const order = rendezvous(
      digest,
      members.site().map((member) => member.id),
    )
    return order.slice(0, REPLICAS).includes(self)
  }

  return {
    dispatch,
    reject(digest, bad, shun) {
      const entry = entries.get(digest)
      for (const { index, cid } of bad) entry?.ledger.reject(index, cid, shun)
    },
    refresh(digest) {
      const entry = entries.get(digest)
      if (!entry) return
      createBlocks({ digest, store, signer, log }).then(
        (blocks) => entry.ledger.correct(self, blocks.bits()),
        (error) => log.warn({ digest, error: String(error) }, 'reading what is left of a blob failed'),
      )
    },
    share(digest) {
      const entry = entries.get(digest)
      if (!entry || entry.pullers.has(self)) return
      ownHolding(digest).then(
        (own) => own && entry.ledger.dispatch(own, Date.now()),
        (error) => log.warn({ digest, error: String(error) }, 'reading a share failed'),
      )
    },
    close() {
      clearInterval(sweep)
      stopListening()
    },
  }
}

/** Resolves when all have answered, when enough have for every block to have a holder, or when it is late. */
async function enough(ledger: Ledger, asked: Promise<void>[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await new Promise<void>((resolve) => {
    timer = setTimeout(resolve, LOOKUP_MS)
    for (const one of asked) void one.then(() => ledger.complete && resolve())
    void Promise.all(asked).then(() => resolve())
  })
  clearTimeout(timer)
}
