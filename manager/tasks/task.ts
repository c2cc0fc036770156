/**
 * A blob on its way to this node. The task owns the readers, the verdict and the end; `blocks` is the one place that knows what
 * is here, and `work` holds the parts that fetch what is missing.
 */
import { type Digest, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { DispatchAnswer, PeerId, Priority } from '../../scheduler/index.ts'
import type { OpenBlob, Origin, Sources, TaskStatus } from '../types.ts'
import type { Announcer } from './announcer.ts'
import { type AuditDesk, settleMismatch } from './audit.ts'
import { createBlocks } from './blocks.ts'
import type { Signer } from './cuts.ts'
import { createDiskless } from './diskless.ts'
import type { Gossip } from './gossip.ts'
import type { HaveNote } from './messages.ts'
import { createOpenings } from './openings.ts'
import { refusalError, toShoalError } from './outcome.ts'
import { readBlob } from './reading.ts'
import { createWork, type Work, type WorkPlace } from './work.ts'

/** Nothing came and nobody can send: so long a reader is kept waiting, and longer when the LAN itself just broke. */
const PATIENCE_MS = 8000
const LAN_PATIENCE_MS = 40_000
/** A refusal counts when nothing has come for this long: what is in flight may still make it moot. */
const SETTLE_MS = 250
/** How long a task that nobody waits for goes on: a client that lost its connection comes back at once. */
const GRACE_MS = 1500
const AUDITS = 2
const MAX_NEIGHBOURS = 48

export interface TaskDeps extends WorkPlace {
  store: BlockStore
  signer: Signer
  desk: AuditDesk
  announcer: Announcer
  gossip: Gossip
  log: Log
  /** A member was lost a moment ago: the network is the likely culprit. */
  lanTrouble: () => boolean
  onBytes: (source: keyof Sources, count: number) => void
  onStatus: (status: TaskStatus) => void
  onEnd: () => void
}

export interface Task {
  open(request: { origin: Origin; priority: Priority; signal: AbortSignal }): Promise<OpenBlob>
  /** A neighbour says that it got blocks. */
  heard(peer: PeerId, note: HaveNote): void
  /** The store lost blocks. */
  lost(offsets: readonly number[]): void
  status(): TaskStatus
  close(): Promise<void>
}

export async function createTask(
  digest: Digest,
  facts: { size?: number; mediaType?: string },
  deps: TaskDeps,
): Promise<Task> {
  const { members, rpc, store, signer, gossip, pool } = deps
  const log = deps.log.child({ digest })
  const self = members.self.id
  const release = store.hold(digest)
  const blocks = await createBlocks({ digest, store, signer, log })
  const startedAt = Date.now()
  const openings = createOpenings({
    graceMs: () => (verified ? 0 : GRACE_MS),
    onIdle: () => void close(),
  })
  const readers = new Map<number, number>()
  /** Fellow pullers, who are told at first hand what arrives. */
  const neighbours = new Set<PeerId>()
  const sources: Sources = { local: blocks.bytesHere, peers: 0, upstream: 0 }
  /** Blocks that were given out and proved wrong; in order of discovery. */
  const replaced: number[] = []
  const ending = new AbortController()
  let nextReader = 0
  let verified = (await store.blob(digest))?.complete === true && blocks.missing === 0
  let moved = false
  let coming = false
  let lastMove = performance.now()
  let refusal: DispatchAnswer['refusal']
  let failure: ShoalError | undefined
  let round: { abort: AbortController; finished: Promise<void> } | undefined
  let peers = 0
  let lastStatus = 0
  const finished = Promise.withResolvers<void>()
  finished.promise.catch(() => {})
  if (!verified && facts.size !== undefined) await blocks.describe({ size: facts.size })
  if (facts.mediaType !== undefined) await blocks.describe({ mediaType: facts.mediaType })

  function move(): void {
    moved = true
    lastMove = performance.now()
  }

  function report(force = false): void {
    const now = performance.now()
    if (!force && now - lastStatus < 200) return
    lastStatus = now
    deps.onStatus(status())
  }

  function arrived(index: number, bytes: Uint8Array, from: 'peers' | 'upstream'): void {
    move()
    sources[from] += bytes.byteLength
    deps.onBytes(from, bytes.byteLength)
    work.verifier.offer(index, bytes)
    work.planner.got(index)
    const cut = blocks.cut(index)
    if (cut && !diskless.active) gossip.got(neighbours, digest, cut, from === 'upstream')
    report()
  }

  const diskless = createDiskless({
    blocks,
    signer,
    origin: openings.origin,
    readers,
    verifierAt: () => work.verifier.position,
    lastMove: () => lastMove,
    onStart: () => {
      log.warn({}, 'the disk is full: the blob passes through without being kept')
      if (openings.priority === 'preheat') fail(new ShoalError('STORE_FULL', 'no room to keep the blob'))
      moved = true
      work.planner.window(diskless.window)
    },
    onBlock: (index, bytes) => arrived(index, bytes, 'upstream'),
    onGone: (index) => work.planner.lost(index),
    log,
  })
  const startWork = (): Work =>
    createWork(deps, {
      blocks,
      openings,
      diskless,
      readers,
      onBlock: arrived,
      onAnswer: apply,
      onCuts: learned,
      onMove: move,
      log,
    })
  let work = startWork()

  function neighbour(peer: PeerId, pulling: boolean): void {
    if (!pulling) neighbours.delete(peer)
    else if (neighbours.size < MAX_NEIGHBOURS) neighbours.add(peer)
  }

  function learned(indexes: readonly number[]): void {
    for (const index of indexes) work.planner.known(index)
    work.fetching.pump()
  }

  function apply(answer: DispatchAnswer): void {
    const { size, mediaType } = answer
    blocks
      .describe({
        ...(size === undefined ? {} : { size }),
        ...(mediaType === undefined ? {} : { mediaType }),
      })
      .catch((error) => fail(toShoalError(error)))
    if (blocks.size !== undefined) work.planner.size(blocks.size)
    learned(blocks.learn(answer.cuts))
    peers = answer.holders.length
    for (const holder of answer.holders) {
      work.planner.peer(holder.peer, holder.have)
      neighbour(holder.peer, holder.pulling)
    }
    // Bytes are on their way to the site: whoever waits for this blob need not wait for the first of them.
    if (
      !coming &&
      blocks.size !== undefined &&
      (answer.seeding || answer.holders.some((holder) => !holder.pulling))
    ) {
      coming = true
      blocks.bell.ring()
    }
    work.seeding.update(answer.leases)
    work.planner.seeding(answer.leases)
    work.maps.look(answer.holders)
    refusal = answer.refusal
    judge()
    work.fetching.pump()
  }

  /** Ends the task with an error when what is missing cannot come. */
  function judge(): void {
    if (blocks.missing === 0 || !refusal || diskless.active) return
    const quiet = performance.now() - lastMove
    const final = refusal.reason === 'missing' || refusal.reason === 'denied'
    const patience = deps.lanTrouble() ? LAN_PATIENCE_MS : PATIENCE_MS
    if (quiet > (final || !moved ? SETTLE_MS : patience))
      fail(refusalError(refusal, work.seeding.error, openings.refusal))
  }

  function fail(error: ShoalError): void {
    if (failure || ending.signal.aborted) return
    failure = error
    log.warn({ code: error.code, error: error.message }, 'task failed')
    finished.reject(error)
    blocks.bell.ring()
    report(true)
    void close()
  }

  /** Fetches what is missing; again whenever the store loses blocks later. */
  function ensureRunning(): void {
    if (round || failure || ending.signal.aborted) return
    if (verified && blocks.missing === 0) return
    lastMove = performance.now()
    const abort = new AbortController()
    const signal = AbortSignal.any([abort.signal, ending.signal])
    round = { abort, finished: run(signal, abort).catch(ended) }
  }

  function ended(error: unknown): void {
    round = undefined
    if (!ending.signal.aborted) fail(toShoalError(error))
  }

  async function run(signal: AbortSignal, abort: AbortController): Promise<void> {
    const watch = setInterval(judge, 100)
    const seen = { serial: 0 }
    try {
      const talk = work.dispatching.run(signal)
      work.fetching.pump()
      diskless.run(signal)
      for (let audits = 0; !(await verify(signal)); audits++) {
        const indexes =
          audits < AUDITS
            ? await settleMismatch({
                blocks,
                desk: deps.desk,
                rpc,
                self,
                coordinator: () => work.dispatching.coordinator,
                origin: openings.origin,
                seen,
                log,
                signal,
              })
            : undefined
        if (!indexes) {
          await store.remove(digest)
          throw new ShoalError('DIGEST_MISMATCH', `the bytes that upstream sends are not those of ${digest}`)
        }
        replaced.push(...indexes)
        for (const index of indexes) {
          if (blocks.has(index)) continue
          work.planner.lost(index)
          work.planner.forgetCut(index)
          if (blocks.cut(index)) work.planner.known(index)
        }
        work.dispatching.revise()
      }
      verified = true
      gossip.whole(digest)
      if (!diskless.active) await store.markComplete(digest)
      blocks.bell.ring()
      abort.abort()
      await talk
      await work.stop()
      await work.dispatching.finish()
      if (!diskless.active) deps.announcer.complete(digest)
      finished.resolve()
      report(true)
      work = startWork()
      round = undefined
      if (blocks.missing !== 0 && !diskless.active) ensureRunning()
    } finally {
      clearInterval(watch)
    }
  }

  /** A blob that was verified once needs no second hash: what comes again is checked against cuts that made it up. */
  async function verify(signal: AbortSignal): Promise<boolean> {
    if (!verified) return work.verifier.run(signal)
    while (blocks.missing !== 0) await blocks.bell.wait(signal)
    return true
  }

  async function close(): Promise<void> {
    if (ending.signal.aborted) return
    openings.stop()
    ending.abort(failure ?? new ShoalError('ABORTED', 'nobody waits for the blob any more'))
    deps.onEnd()
    await round?.finished
    await work.stop()
    if (!verified) await work.dispatching.finish()
    release()
    blocks.bell.ring()
  }

  function status(): TaskStatus {
    return {
      digest,
      label: openings.label,
      size: blocks.size,
      bytesHere: blocks.bytesHere,
      sources: { ...sources },
      coordinator: work.dispatching.coordinator,
      peers,
      leases: work.seeding.leases.length,
      readers: readers.size,
      priority: openings.priority,
      startedAt,
      state: failure ? 'failed' : verified && blocks.missing === 0 ? 'done' : 'running',
      ...(failure ? { error: failure.message } : {}),
    }
  }

  async function open(request: {
    origin: Origin
    priority: Priority
    signal: AbortSignal
  }): Promise<OpenBlob> {
    const leave = openings.add({ origin: request.origin, priority: request.priority })
    const before = { ...sources, local: blocks.bytesHere }
    try {
      ensureRunning()
      while (blocks.size === undefined || !(moved || coming || verified)) {
        if (failure) throw failure
        if (blocks.size === undefined && blocks.reach > 0) break
        await blocks.bell.wait(AbortSignal.any([request.signal, ending.signal]))
      }
    } catch (error) {
      leave()
      throw failure ?? error
    }
    const closed = new AbortController()
    return {
      digest,
      get size() {
        return blocks.size
      },
      get mediaType() {
        return blocks.mediaType
      },
      read: (range, signal) =>
        readBlob(
          {
            blocks,
            pool,
            isVerified: () => verified,
            failure: () =>
              failure ?? (ending.signal.aborted ? toShoalError(ending.signal.reason) : undefined),
            onPosition: place,
            onLost: ensureRunning,
            onRead: (index, bytes) => work.verifier.offer(index, bytes),
            replaced: () => replaced,
          },
          nextReader++,
          range,
          AbortSignal.any([signal, closed.signal]),
        ),
      sources: () => ({
        local: before.local,
        peers: sources.peers - before.peers,
        upstream: sources.upstream - before.upstream,
      }),
      done: verified && blocks.missing === 0 ? Promise.resolve() : finished.promise,
      close() {
        closed.abort(new ShoalError('ABORTED', 'closed'))
        leave()
      },
    }
  }

  function place(id: number, index: number | undefined): void {
    if (index === undefined) readers.delete(id)
    else readers.set(id, index)
    work.planner.reader(id, index)
    if (!verified) work.fetching.pump()
    blocks.bell.ring()
  }

  return {
    open,
    heard(peer, note) {
      learned(blocks.learn(note.cuts))
      for (const { index } of note.cuts) work.planner.peerHas(peer, index)
      for (const index of note.indexes) work.planner.peerHas(peer, index)
      neighbour(peer, note.pulling)
      work.fetching.pump()
    },
    lost(offsets) {
      for (const index of blocks.lost(offsets)) work.planner.lost(index)
      ensureRunning()
    },
    status,
    close,
  }
}
