import {
  bitfield,
  type Cut,
  createLedger,
  createPeerBook,
  createPlanner,
  type DispatchAnswer,
  type DispatchRequest,
  hasBit,
  type Lease,
  type Ledger,
  rendezvous,
  setBit,
} from '../../scheduler/index.ts'
import { type Clock, createClock, seeded } from './clock.ts'
import { createFair, createFifo, type Job, job, type Link } from './links.ts'
import type { Outcome, Scenario } from './types.ts'

const DIGEST = 'sha256:simulated'
const CUT_BYTES = 180
const MAX_NEIGHBOURS = 48
const METER_MS = 2000
const PUMP_MS = 1

interface Transfer {
  index: number
  from: Node
  to: Node
  job: Job | undefined
  over: boolean
}

interface Stream {
  lease: Lease
  /** Blocks that came over the uplink and are not stored yet. */
  pending: number
  job: Job | undefined
  aborted: boolean
  /** All of it came over the uplink. */
  ended: boolean
}

interface Node {
  id: string
  alive: boolean
  planner: ReturnType<typeof createPlanner>
  have: Uint8Array
  known: Uint8Array
  missing: number
  readAt: number
  up: Link
  down: Link
  uplink: Link
  cpu: Link
  neighbours: Set<Node>
  fresh: number[]
  flushing: boolean
  version: number
  coordinator: string | undefined
  talking: boolean
  kicked: boolean
  talkTurn: number
  unreported: Set<number>
  released: NonNullable<DispatchRequest['released']>
  streams: Map<string, Stream>
  meter: { at: number; bytes: number }[]
  rate: number
  fetching: Map<string, Transfer>
  serving: Set<Transfer>
  pumping: boolean
  wakeAt: number
  doneAt: number | undefined
  ledger: Ledger | undefined
}

/** Runs the scenario with the real ledger, planner and peer book of every node. The same scenario gives the same outcome. */
export function simulate(
  s: Scenario,
  progress?: (clock: Clock, done: number, outcome: Outcome) => void,
): Outcome {
  const clock = createClock()
  const random = seeded(s.seed)
  const blocks = Math.ceil(s.size / s.blockSize)
  const cuts: (Cut | undefined)[] = new Array(blocks)
  const sharedUplink = createFair(clock, s.uplink / 1000)
  const out: Outcome = {
    doneMs: [],
    unfinished: 0,
    killed: 0,
    uplinkBytes: 0,
    uplinkMs: 0,
    lanBytes: 0,
    wastedBytes: 0,
    hedges: 0,
    dispatches: 0,
    notes: 0,
    asks: 0,
    missing: 0,
    dispatchBytes: 0,
    events: 0,
  }
  const nodes: Node[] = []
  const byId = new Map<string, Node>()
  /** What everybody believes of who is alive. */
  let members: string[] = []
  let order: string[] = []
  let running = s.nodes

  const lengthOf = (index: number): number => Math.min(s.blockSize, s.size - index * s.blockSize)

  function createNode(at: number): Node {
    const draw = seeded(Math.floor(random() * 2 ** 32))
    const lan = s.lan / 1000
    const planner = createPlanner({
      blockSize: s.blockSize,
      book: createPeerBook(),
      priority: () => 'client',
      random: draw,
    })
    planner.size(s.size)
    planner.reader(1, 0)
    return {
      id: `node-${String(at).padStart(4, '0')}`,
      alive: true,
      planner,
      have: bitfield(blocks),
      known: new Uint8Array(blocks),
      missing: blocks,
      readAt: 0,
      up: s.links === 'fair' ? createFair(clock, lan) : createFifo(clock, lan),
      down: createFifo(clock, lan),
      uplink: s.uplinks === 'shared' ? sharedUplink : createFair(clock, s.uplink / 1000),
      cpu: createFifo(clock, 1),
      neighbours: new Set(),
      fresh: [],
      flushing: false,
      version: 0,
      coordinator: undefined,
      talking: false,
      kicked: false,
      talkTurn: 0,
      unreported: new Set(),
      released: [],
      streams: new Map(),
      meter: [],
      rate: 0,
      fetching: new Map(),
      serving: new Set(),
      pumping: false,
      wakeAt: Number.POSITIVE_INFINITY,
      doneAt: undefined,
      ledger: undefined,
    }
  }

  // ---- talking to the coordinator ----

  function kick(node: Node): void {
    if (!node.alive) return
    if (node.talking) node.kicked = true
    else talk(node)
  }

  function talk(node: Node): void {
    if (!node.alive || node.talking) return
    node.talking = true
    node.kicked = false
    node.talkTurn++
    const target = order[0]!
    if (node.coordinator !== target) {
      node.coordinator = target
      node.version = 0
    }
    const told = node.version === 0 ? knownCuts(node) : [...node.unreported].map((index) => cuts[index]!)
    const released = node.released
    node.released = []
    node.unreported.clear()
    const request: DispatchRequest = {
      peer: node.id,
      version: node.version,
      have: node.have.slice(),
      size: s.size,
      cuts: told,
      pulling: node.missing > 0,
      seed: { rate: node.rate },
      released,
    }
    out.dispatches++
    const bytes = 200 + request.have.length + told.length * CUT_BYTES
    out.dispatchBytes += bytes
    const coordinator = byId.get(target)!
    node.up.urgent(
      job(bytes, () => {
        clock.after(s.latencyMs, () => {
          if (!coordinator.alive) return again(node, released, told)
          coordinator.cpu.send(job(s.dispatchMs, () => answer(coordinator, node, request)))
        })
      }),
    )
    // The answer may never come: the coordinator died with the question.
    const turn = node.talkTurn
    clock.after(s.detectMs + 500, () => {
      if (node.alive && node.talking && node.talkTurn === turn && !coordinator.alive)
        again(node, released, told)
    })
  }

  function again(node: Node, released: Node['released'], told: Cut[]): void {
    node.talking = false
    node.released = [...released, ...node.released]
    for (const cut of told) if (cut.seeder === node.id) node.unreported.add(cut.index)
    clock.after(100, () => talk(node))
  }

  function knownCuts(node: Node): Cut[] {
    const list: Cut[] = []
    for (let index = 0; index < blocks; index++) if (node.known[index] === 1) list.push(cuts[index]!)
    return list
  }

  function answer(coordinator: Node, node: Node, request: DispatchRequest): void {
    if (!coordinator.alive) return
    coordinator.ledger ??= createLedger({
      digest: DIGEST,
      blockSize: s.blockSize,
      random: seeded(Math.floor(random() * 2 ** 32)),
    })
    const said = coordinator.ledger.dispatch(request, clock.now)
    const have = said.holders.reduce((sum, holder) => sum + holder.have.length + 60, 0)
    const bytes = 200 + said.cuts.length * CUT_BYTES + have
    out.dispatchBytes += bytes
    coordinator.up.urgent(job(bytes, () => clock.after(s.latencyMs, () => apply(node, said))))
  }

  function apply(node: Node, said: DispatchAnswer): void {
    if (!node.alive) return
    node.talking = false
    node.version = said.version
    for (const cut of said.cuts) learn(node, cut.index)
    for (const { peer, have, pulling } of said.holders) {
      const other = byId.get(peer)!
      if (node.missing > 0 && members.includes(peer)) node.planner.peer(peer, have)
      if (pulling && node.neighbours.size < MAX_NEIGHBOURS) node.neighbours.add(other)
    }
    updateStreams(node, said.leases)
    pump(node)
    const turn = node.talkTurn
    if (node.missing === 0 && node.released.length === 0 && node.unreported.size === 0) return
    clock.after(node.kicked ? 15 : Math.max(15, said.retryMs), () => {
      if (node.talkTurn === turn) talk(node)
    })
  }

  // ---- seeding ----

  function updateStreams(node: Node, leases: Lease[]): void {
    const live = new Set(leases.map((lease) => lease.id))
    for (const stream of node.streams.values()) if (!live.has(stream.lease.id)) stop(node, stream)
    for (const lease of leases) {
      if (node.streams.has(lease.id)) continue
      const stream: Stream = { lease, pending: 0, job: undefined, aborted: false, ended: false }
      node.streams.set(lease.id, stream)
      clock.after(s.upstreamMs, () => fetchUpstream(node, stream, lease.start))
    }
    node.planner.seeding([...node.streams.values()].map((stream) => stream.lease))
  }

  function stop(node: Node, stream: Stream): void {
    stream.aborted = true
    if (stream.job !== undefined) node.uplink.cancel(stream.job)
    node.streams.delete(stream.lease.id)
  }

  function fetchUpstream(node: Node, stream: Stream, index: number): void {
    if (stream.aborted || !node.alive) return
    const { lease } = stream
    if (index >= Math.min(blocks, lease.start + lease.count)) {
      settle(node, stream)
      return
    }
    const bytes = lengthOf(index)
    stream.job = job(bytes, () => {
      out.uplinkBytes += bytes
      out.uplinkMs = clock.now
      measure(node, bytes)
      stream.pending++
      fetchUpstream(node, stream, index + 1)
      node.down.send(
        job(s.uplinks === 'shared' ? bytes : 0, () =>
          clock.after(s.processMs, () => cut(node, index, stream)),
        ),
      )
      if (index - lease.start + 1 === Math.ceil(lease.count / 2)) kick(node)
    })
    node.uplink.send(stream.job)
  }

  function settle(node: Node, stream: Stream): void {
    stream.ended = true
    if (stream.pending > 0 || stream.aborted) return
    node.streams.delete(stream.lease.id)
    node.released.push({ id: stream.lease.id, reason: 'done' })
    kick(node)
  }

  function measure(node: Node, bytes: number): void {
    const { meter } = node
    meter.push({ at: clock.now, bytes })
    while (clock.now - meter[0]!.at > METER_MS) meter.shift()
    const span = clock.now - meter[0]!.at
    if (span < 100) return
    const sum = meter.reduce((total, sample) => total + sample.bytes, 0) - meter[0]!.bytes
    node.rate = (sum / span) * 1000
  }

  function cut(node: Node, index: number, stream: Stream): void {
    if (!node.alive) return
    stream.pending--
    if (!hasBit(node.have, index)) sign(node, index)
    if (stream.ended) settle(node, stream)
  }

  function sign(node: Node, index: number): void {
    cuts[index] ??= {
      index,
      cid: `block-${index}`,
      length: lengthOf(index),
      seeder: node.id,
      signature: new Uint8Array(0),
    }
    node.unreported.add(index)
    learn(node, index)
    node.planner.got(index)
    got(node, index)
    pump(node)
  }

  // ---- blocks between nodes ----

  function learn(node: Node, index: number): void {
    if (node.known[index] === 1) return
    node.known[index] = 1
    node.planner.known(index)
  }

  function got(node: Node, index: number): void {
    setBit(node.have, index)
    node.missing--
    while (node.readAt < blocks && hasBit(node.have, node.readAt)) node.readAt++
    node.planner.reader(1, node.readAt < blocks ? node.readAt : undefined)
    node.fresh.push(index)
    if (!node.flushing) {
      node.flushing = true
      clock.after(s.batchMs, () => flush(node))
    }
    if (node.missing > 0) return
    node.doneAt = clock.now
    running--
    kick(node)
  }

  function flush(node: Node): void {
    node.flushing = false
    if (!node.alive) return
    const news = node.fresh
    node.fresh = []
    const listeners = [...node.neighbours].filter((other) => other.alive && other.missing > 0)
    out.notes += listeners.length
    clock.after(s.latencyMs, () => {
      for (const other of listeners) {
        if (!other.alive || other.missing === 0) continue
        for (const index of news) {
          learn(other, index)
          other.planner.peerHas(node.id, index)
        }
        if (node.missing > 0 && other.neighbours.size < MAX_NEIGHBOURS) other.neighbours.add(node)
        pumpSoon(other)
      }
    })
  }

  /** Several notes that come at nearly the same moment are looked at together. */
  function pumpSoon(node: Node): void {
    if (node.pumping) return
    node.pumping = true
    clock.after(PUMP_MS, () => {
      if (node.pumping) pump(node)
    })
  }

  function pump(node: Node): void {
    node.pumping = false
    if (!node.alive || node.missing === 0) return
    perform(node, node.planner.next(clock.now))
    const at = node.planner.wakeAt(clock.now)
    if (at === undefined || (at >= node.wakeAt && node.wakeAt > clock.now)) return
    node.wakeAt = at
    clock.at(at, () => {
      if (node.wakeAt !== at) return
      node.wakeAt = Number.POSITIVE_INFINITY
      pump(node)
    })
  }

  function perform(node: Node, actions: ReturnType<Node['planner']['next']>): void {
    for (const action of actions) {
      const key = `${action.index} ${action.peer}`
      if (action.type === 'ask') ask(node, byId.get(action.peer)!, action.index, action.hedge, key)
      else end(node.fetching.get(key), true)
    }
  }

  function ask(node: Node, from: Node, index: number, hedge: boolean, key: string): void {
    out.asks++
    if (hedge) out.hedges++
    const transfer: Transfer = { index, from, to: node, job: undefined, over: false }
    node.fetching.set(key, transfer)
    clock.after(s.latencyMs, () => {
      if (transfer.over) return
      if (!from.alive) return fail(transfer, 'gone')
      if (!hasBit(from.have, index)) {
        out.missing++
        clock.after(s.latencyMs, () => fail(transfer, 'missing'))
        return
      }
      let moved = 0
      const bytes = lengthOf(index)
      from.serving.add(transfer)
      transfer.job = job(
        bytes,
        () => {
          from.serving.delete(transfer)
          out.lanBytes += bytes
          node.down.send(
            job(bytes, () => clock.after(s.latencyMs + s.processMs, () => arrive(transfer, bytes))),
          )
        },
        (sent) => {
          node.planner.progress(index, from.id, sent - moved, clock.now)
          moved = sent
        },
      )
      from.up.send(transfer.job)
    })
  }

  function end(transfer: Transfer | undefined, cancelled: boolean): boolean {
    if (transfer === undefined || transfer.over) return false
    transfer.over = true
    transfer.to.fetching.delete(`${transfer.index} ${transfer.from.id}`)
    transfer.from.serving.delete(transfer)
    if (cancelled && transfer.job !== undefined) {
      if (transfer.job.state === 'sent') out.wastedBytes += transfer.job.bytes
      else transfer.from.up.cancel(transfer.job)
    }
    return true
  }

  function arrive(transfer: Transfer, bytes: number): void {
    const { to, from, index } = transfer
    if (!to.alive || !end(transfer, false)) return
    const fresh = !hasBit(to.have, index)
    perform(to, to.planner.arrived(index, from.id, clock.now))
    if (fresh) got(to, index)
    else out.wastedBytes += bytes
    pump(to)
  }

  function fail(transfer: Transfer, reason: 'gone' | 'missing'): void {
    const { to, from, index } = transfer
    if (!to.alive || !end(transfer, false)) return
    to.planner.failed(index, from.id, reason, clock.now)
    pump(to)
  }

  // ---- failures ----

  function kill(node: Node): void {
    node.alive = false
    out.killed++
    if (node.doneAt === undefined) running--
    for (const stream of [...node.streams.values()]) stop(node, stream)
    for (const transfer of [...node.fetching.values()]) end(transfer, true)
    node.up.close()
    const broken = [...node.serving]
    clock.after(1, () => {
      for (const transfer of broken) fail(transfer, 'gone')
    })
    clock.after(s.detectMs, () => {
      members = members.filter((id) => id !== node.id)
      order = rendezvous(DIGEST, members)
      for (const other of nodes) {
        if (!other.alive) continue
        other.planner.dropPeer(node.id)
        other.neighbours.delete(node)
        other.ledger?.forget(node.id)
        if (other.coordinator === node.id && other.missing > 0) kick(other)
      }
    })
  }

  function victims(failure: Scenario['failures'][number]): Node[] {
    const living = nodes.filter((node) => node.alive)
    const coordinator = byId.get(order[0]!)!
    const others = living.filter((node) => node !== coordinator)
    const pool =
      failure.who === 'coordinator'
        ? [coordinator]
        : failure.who === 'seeder'
          ? others.filter((node) => node.streams.size > 0)
          : others
    const chosen: Node[] = []
    while (chosen.length < failure.count && pool.length > 0) {
      chosen.push(...pool.splice(Math.floor(random() * pool.length), 1))
    }
    return chosen
  }

  for (let at = 0; at < s.nodes; at++) {
    const node = createNode(at)
    nodes.push(node)
    byId.set(node.id, node)
  }
  members = nodes.map((node) => node.id)
  order = rendezvous(DIGEST, members)
  for (const node of nodes) clock.at(random() * 20, () => talk(node))
  for (const failure of s.failures) {
    clock.at(failure.atMs, () => {
      for (const node of victims(failure)) kill(node)
    })
  }
  if (progress !== undefined) {
    const report = (): void => {
      progress(clock, s.nodes - running, out)
      if (running > 0) clock.after(1000, report)
    }
    clock.after(1000, report)
  }
  clock.run(() => running === 0, s.limitMs)

  const living = nodes.filter((node) => node.alive)
  out.doneMs = living.flatMap((node) => node.doneAt ?? []).sort((a, b) => a - b)
  out.unfinished = living.length - out.doneMs.length
  out.events = clock.events
  return out
}
