import { type Digest, isShoalError, type Log } from '../base/index.ts'
import type { BlockStore } from '../blockstore/index.ts'
import { createPeerBook } from '../scheduler/index.ts'
import { createBorrowing } from './borrowing.ts'
import { createHints } from './hints.ts'
import { createSharedRecords } from './records/index.ts'
import { createCatalog, createLayout, createStoring, type StoringOptions } from './storing/index.ts'
import {
  createAnnouncer,
  createAuditDesk,
  createBlocks,
  createBufferPool,
  createCoordinator,
  createElsewhere,
  createGossip,
  createIngest,
  createTask,
  digestField,
  fields,
  MAP_PAGE,
  packMap,
  readHave,
  type Signer,
  type Task,
} from './tasks/index.ts'
import type {
  Exchange,
  Manager,
  ManagerEvent,
  Membership,
  NodeIdentity,
  PeerId,
  Priority,
  Rpc,
  TaskStatus,
} from './types.ts'

const IDLE_BUFFERS = 8
/** Bytes asked for and not here yet, from one peer and from all; a buffer is taken only with the first byte of a block. */
const IN_FLIGHT = { minBudget: 6 * 2 ** 20, total: 14 * 2 ** 20 }
const LAN_TROUBLE_MS = 45_000
/** A node that just started may be the one that is late: so long a pull waits for the first contact with its site. */
const SETTLE_MS = 2500
const KEPT_TASKS = 50

/** The distribution manager over a network that is already there. See types.ts for what it offers. */
export function createManager(deps: {
  members: Membership
  rpc: Rpc
  exchange: Exchange
  signer: Signer & NodeIdentity
  store: BlockStore
  isConnected: (peer: PeerId) => boolean
  /** Resolves when so many more bytes may come from upstream; absent: at once. */
  mayReceive?: (bytes: number, priority: Priority) => Promise<void>
  storing: StoringOptions
  log: Log
  random?: () => number
}): Manager {
  const { members, rpc, exchange, signer, store, isConnected, log, random = Math.random } = deps
  const { mayReceive = async () => {} } = deps
  const self = members.self.id
  const book = createPeerBook({ limits: IN_FLIGHT })
  const pool = createBufferPool({ keep: IDLE_BUFFERS })
  const records = createSharedRecords({ members, rpc, store, log, random })
  const layout = createLayout({ members, leaveAfterMs: deps.storing.leaveAfterMs })
  const catalog = createCatalog({ records, self, site: members.self.site, counts: layout.counts, log })
  const coordinator = createCoordinator({
    members,
    rpc,
    store,
    signer,
    isStored: (digest) => catalog.blob(digest) !== undefined,
    log,
    random,
  })
  const desk = createAuditDesk({ members, rpc, coordinator, log })
  const announcer = createAnnouncer({ members, rpc, store, signer, log })
  const gossip = createGossip({ rpc })
  const hints = createHints({ members, rpc, store, log })
  const borrowing = createBorrowing({ store, signer, announcer, coordinator })
  const tasks = new Map<Digest, Promise<Task>>()
  const past: TaskStatus[] = []
  const live = new Map<Digest, Task>()
  const listeners = new Set<(event: ManagerEvent) => void>()
  const totals = { peersIn: 0, upstream: 0, local: 0 }
  const closing = new AbortController()
  let lossAt = -Infinity
  let present = new Set(members.site().map((member) => member.id))

  function emit(event: ManagerEvent): void {
    for (const listener of listeners) listener(event)
  }

  const stopMembers = members.onChange(() => {
    const now = new Set(members.site().map((member) => member.id))
    for (const peer of present) {
      if (now.has(peer)) continue
      book.forget(peer)
      if (members.find(peer)?.state !== 'left') lossAt = performance.now()
    }
    present = now
    emit({ type: 'members', members: members.list() })
  })

  const stopDropped = store.onDropped((digest, offsets) => {
    coordinator.refresh(digest)
    announcer.incomplete(digest)
    storing.lost(digest)
    tasks.get(digest)?.then(
      (task) => task.lost(offsets),
      () => {},
    )
  })

  rpc.handle('have', async (peer, body) => {
    for (const note of readHave(body)) live.get(note.digest)?.heard(peer, note)
    return undefined
  })
  rpc.handle('map', async (_peer, body) => {
    const f = fields(body)
    const digest = digestField(f.digest)
    const blocks = await createBlocks({ digest, store, signer, log })
    const cuts = blocks.cuts(Number(f.from) || 0, MAP_PAGE + 1)
    const page = cuts.slice(0, MAP_PAGE)
    return packMap({
      size: blocks.size,
      mediaType: blocks.mediaType,
      have: blocks.bits(),
      cuts: page,
      next: cuts[MAP_PAGE]?.index,
    })
  })

  function taskOf(digest: Digest, facts: { size?: number; mediaType?: string }): Promise<Task> {
    const running = tasks.get(digest)
    if (running) return running
    const task = createTask(digest, facts, {
      members,
      rpc,
      exchange,
      store,
      signer,
      coordinator,
      desk,
      announcer,
      gossip,
      book,
      pool,
      random,
      log,
      mayReceive,
      lanTrouble: () => performance.now() - lossAt < LAN_TROUBLE_MS,
      onBytes(source, count) {
        totals[source === 'peers' ? 'peersIn' : source] += count
      },
      onStatus: (status) => emit({ type: 'task', task: status }),
      onEnd() {
        if (tasks.get(digest) === task) tasks.delete(digest)
        const ended = live.get(digest)
        if (!ended) return
        live.delete(digest)
        past.push(ended.status())
        if (past.length > KEPT_TASKS) past.shift()
      },
    })
    tasks.set(digest, task)
    task.then(
      (made) => live.set(digest, made),
      () => tasks.delete(digest),
    )
    return task
  }

  const open: Manager['open'] = async ({ digest, origin, size, mediaType, priority, signal }) => {
    closing.signal.throwIfAborted()
    await settled(digest)
    const facts = {
      ...(size === undefined ? {} : { size }),
      ...(mediaType === undefined ? {} : { mediaType }),
    }
    await borrowing.yield(digest)
    for (;;) {
      const made = taskOf(digest, facts)
      try {
        const blob = await (await made).open({ origin, priority, signal })
        totals.local += blob.sources().local
        return blob
      } catch (error) {
        // The task was ending just as this one came to join it.
        const ended = isShoalError(error, 'ABORTED') && tasks.get(digest) !== made
        if (!ended || signal.aborted || closing.signal.aborted) throw error
      }
    }
  }

  const storing = createStoring({
    members,
    rpc,
    exchange,
    signer,
    store,
    pool,
    catalog,
    layout,
    open,
    onShare(digest) {
      coordinator.share(digest)
      announcer.share(digest)
    },
    onBytes(count) {
      totals.peersIn += count
    },
    options: deps.storing,
    log,
  })

  /** What is whole on this disk needs nobody else, so it is not held up by a site that is still forming. */
  async function settled(digest: Digest): Promise<void> {
    if ((await store.blob(digest))?.complete) return
    await Promise.race([members.settled, new Promise((resolve) => setTimeout(resolve, SETTLE_MS).unref())])
  }

  return {
    self: members.self,
    identity: signer,
    members,
    rpc,
    hints,
    records,
    storing,
    open,
    ingest: createIngest({ store, signer, announcer, log }),
    elsewhere: createElsewhere({ members, rpc, exchange, signer }),
    borrow: (digest, path, options) =>
      borrowing.borrow(digest, path, {
        ...options,
        isBusy: () => tasks.has(digest) && live.get(digest)?.status().state !== 'done',
        signal: AbortSignal.any([options.signal, closing.signal]),
      }),
    giveBack: (digest) => store.giveBack(digest),
    async holds(digest) {
      return (await store.blob(digest))?.complete === true
    },
    tasks: () =>
      [...[...live.values()].map((task) => task.status()), ...past].sort((a, b) => b.startedAt - a.startedAt),
    peers: () =>
      members
        .list()
        .filter((member) => member.id !== self)
        .map((member) => {
          const { rate, latencyMs } = book.describe(member.id)
          const shunned = book.shunned(member.id, performance.now())
          return {
            member,
            connected: isConnected(member.id),
            rate,
            latencyMs,
            shunned,
            ...exchange.totals(member.id),
          }
        }),
    totals: () => ({ ...totals, peersOut: exchange.totals().sent }),
    onEvent(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    async close() {
      closing.abort()
      stopMembers()
      stopDropped()
      await Promise.allSettled([...tasks.values()].map(async (task) => (await task).close()))
      await storing.close()
      gossip.close()
      announcer.close()
      coordinator.close()
      await records.close()
    },
  }
}
