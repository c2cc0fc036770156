/**
 * A site in one process: real stores, real executors and managers, and twins of what lies below and between them: a runtime and a network that
 * survive their node's daemon, and an RPC without wires. A killed daemon stops in the middle of whatever it does.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { digestOf, ShoalError, silentLog } from '../../../base/index.ts'
import { type BlockStore, openBlockStore } from '../../../blockstore/index.ts'
import type { Migration, Migrations, MoveHooks } from '../../../integration/migration/types.ts'
import type { DriverPod, PodDriver, PodNetwork } from '../../../integration/offload/executor.ts'
import { createTalk, type Talk } from '../../../integration/offload/index.ts'
import type { Link } from '../../../integration/offload/measures.ts'
import { readOrder } from '../../../integration/offload/messages.ts'
import { createNodeExecutor, type NodeExecutor } from '../../../integration/offload/node/executor.ts'
import { openRows } from '../../../integration/offload/node/rows.ts'
import { serveExecutor } from '../../../integration/offload/node/serve.ts'
import { createOffload } from '../../../integration/offload/offload.ts'
import type { AppSpec, Offload, PodSpec } from '../../../integration/offload/types.ts'
import type { Manager, Member, PeerId, Rpc, RpcHandler } from '../../../manager/index.ts'

/** A process that never ends while the test runs stands for every pod's. */
const ALIVE = process.pid

interface Container {
  labels: Record<string, string>
  running: boolean
  made: number
}

export interface FleetNode {
  id: PeerId
  name: string
  /** What the machine has, whether or not a daemon runs. */
  containers: Map<string, Container>
  /** Bytes of writable layers. */
  used: Map<string, number>
  networks: Map<string, { port: number; host: number }[]>
  capacity: { cpu: number; memory: number; storage: number }
  links: Map<PeerId, number>
  member: Member
  /** Undefined while the daemon is down. */
  daemon: Daemon | undefined
  /** Pulls of this image fail. */
  broken: Set<string>
  pulls: Map<string, number>
  start(): Promise<Daemon>
  /** kill -9. */
  kill(): Promise<void>
}

export interface Daemon {
  store: BlockStore
  executor: NodeExecutor
  offload: Offload
  talk: Talk
  dead: boolean
}

export interface Fleet {
  nodes: FleetNode[]
  /** Names of pods that ran twice at the same moment, ever. */
  doubles: string[]
  /** As the others see it. */
  state(node: FleetNode, state: Member['state']): void
  /** Moves asked for, in order. */
  moves: { container: string; from: PeerId; to: PeerId }[]
  /** What the next migration answers; default: it works. */
  migration: { refuse?: string; fail?: string }
  stored: Set<string>
  close(): Promise<void>
}

const DELAY = { pull: 15, start: 10, remove: 8, attach: 4 }

export async function createFleet(
  count: number,
  options: { sites?: string[]; next?: (i: number) => string | undefined; cpu?: number } = {},
): Promise<Fleet> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-fleet-'))
  const handlers = new Map<PeerId, Map<string, RpcHandler>>()
  const watchers = new Set<() => void>()
  const records = new Map<string, unknown>()
  const fleet: Fleet = {
    nodes: [],
    doubles: [],
    moves: [],
    migration: {},
    stored: new Set(),
    state(node, state) {
      node.member.state = state
      for (const watcher of watchers) watcher()
    },
    async close() {
      for (const node of fleet.nodes) await node.kill()
      await rm(dir, { recursive: true, force: true })
    },
  }

  function noteDouble(name: string): void {
    const on = fleet.nodes.filter((node) => node.containers.get(name)?.running)
    if (on.length > 1) fleet.doubles.push(name)
  }

  function makeNode(i: number): FleetNode {
    const id = `peer-${i}`
    const site = options.sites?.[i] ?? 'default'
    const member: Member = {
      id,
      name: `n${i}`,
      site,
      addrs: [`/ip4/10.0.0.${i + 1}/tcp/5082`],
      state: 'alive',
      incarnation: 0,
    }
    const node: FleetNode = {
      id,
      name: member.name,
      containers: new Map(),
      used: new Map(),
      networks: new Map(),
      capacity: { cpu: options.cpu ?? 100, memory: 100e9, storage: 1e12 },
      links: new Map(),
      member,
      daemon: undefined,
      broken: new Set(),
      pulls: new Map(),
      start: () => startDaemon(node, i),
      async kill() {
        const { daemon } = node
        if (daemon === undefined) return
        node.daemon = undefined
        daemon.dead = true
        handlers.delete(id)
        await daemon.store.close()
        // What is under way never ends: nobody waits for it.
        for (const part of [daemon.offload, daemon.executor]) part.close().catch(() => {})
      },
    }
    return node
  }

  async function startDaemon(node: FleetNode, i: number): Promise<Daemon> {
    const { id } = node
    const store = await openBlockStore({ dir: join(dir, node.name), log: silentLog() })
    const daemon = { store, dead: false } as Daemon
    const mine = new Map<string, RpcHandler>()
    handlers.set(id, mine)
    const rpc: Rpc = {
      handle: (method, handler) => void mine.set(method, handler),
      notify: () => {},
      async request(peer, method, body, { timeoutMs }) {
        const to = fleet.nodes.find((each) => each.id === peer)
        await sleep(1)
        const handler = handlers.get(peer)?.get(method)
        if (daemon.dead || to?.daemon === undefined || to.member.state === 'dead')
          throw new ShoalError('PEER_GONE', `${peer} is not there`)
        if (node.member.state === 'dead') throw new ShoalError('PEER_GONE', 'cut off')
        if (handler === undefined) throw new ShoalError('PROTOCOL', `${method} is not known`)
        const answer = await handler(id, structuredClone(body), AbortSignal.timeout(timeoutMs))
        if (daemon.dead || handlers.get(peer)?.get(method) !== handler)
          throw new ShoalError('PEER_GONE', 'gone meanwhile')
        return structuredClone(answer)
      },
    }
    const members = {
      self: node.member,
      list: () => fleet.nodes.map(({ member }) => member),
      site: () =>
        fleet.nodes
          .map(({ member }) => member)
          .filter(
            ({ state, site }) => (state === 'alive' || state === 'suspect') && site === node.member.site,
          ),
      find: (which: string) =>
        fleet.nodes
          .map(({ member }) => member)
          .find(({ id: peer, name }) => peer === which || name === which),
      onChange(listener: () => void) {
        watchers.add(listener)
        return () => watchers.delete(listener)
      },
      doubt: () => {},
      settled: Promise.resolve(),
    }
    const manager = {
      self: node.member,
      members,
      rpc,
      records: {
        get: async (key: string) => (records.has(key) ? { value: records.get(key) } : undefined),
        put: async (key: string, value: unknown) => void records.set(key, value),
        async *entries(prefix: string) {
          for (const [key, value] of records) if (key.startsWith(prefix)) yield { key, value }
        },
      },
      storing: {
        find: async (name: string) =>
          fleet.stored.has(name) ? { digest: digestOf(Buffer.from(name)) } : undefined,
        store: async ({ name }: { name: string }) => {
          await sleep(5)
          fleet.stored.add(name)
        },
        forget: async (name: string) => fleet.stored.delete(name),
      },
    } as unknown as Manager

    const talk = createTalk({ self: id, rpc })
    talk.handle('ping', async () => undefined)
    /** Every step takes a while, and a daemon that is dead by then has not done it. */
    const step = async (ms: number, signal: AbortSignal): Promise<void> => {
      await sleep(ms * (0.5 + Math.random()))
      if (daemon.dead) await new Promise(() => {})
      signal.throwIfAborted()
    }
    const executor = createNodeExecutor({
      self: id,
      rows: await openRows(store),
      driver: twinDriver(node, step, noteDouble),
      network: twinNetwork(node, step),
      address: () => `10.0.0.${i + 1}`,
      logFile: () => undefined,
      dropLog: async () => {},
      askOrder: async (peer, ref, signal) =>
        readOrder(await talk.ask(peer, 'order', ref, { signal, timeoutMs: 2000 })),
      migrations: async () => migrations(node),
      log: silentLog(),
      timing: { watchMs: 40, backoffMs: 20, sweepMs: 300, quotaMs: 30 },
    })
    serveExecutor({
      talk,
      executor,
      measures: {
        measure: async (images) => ({
          unfit: undefined,
          capacity: node.capacity,
          reserved: executor.reserved(),
          score: 1,
          busy: 0,
          links: [...node.links].map(([peer, latencyMs]): Link => ({ peer, latencyMs, rate: 0 })),
          uplink: 0,
          here: images.map(() => 0),
        }),
      },
      log: silentLog(),
      askMs: 150,
    })
    const offload = await createOffload({
      manager,
      store,
      talk,
      images: {
        storedName: (reference) => {
          if (reference.includes(' ')) throw new ShoalError('NAME_INVALID', 'a blank')
          return reference.includes('/') ? reference : `docker.io/library/${reference}`
        },
        collect: async (name) => {
          const digest = digestOf(Buffer.from(name))
          return {
            name,
            digest,
            blobs: [{ digest, size: 1000 }],
            anonymous: true,
            origin: () => ({}) as never,
          }
        },
      },
      next: options.next?.(i),
      log: silentLog(),
      timing: { pollMs: 100, lossMs: 150 },
    })
    Object.assign(daemon, { executor, offload, talk })
    node.daemon = daemon
    return daemon
  }

  /** A migration as the executors see it: hooks in the right order, and one container that is never twice. */
  function migrations(source: FleetNode): Migrations {
    const all: Migration[] = []
    const ends = new Map<string, Promise<Migration>>()
    const unused = (): never => {
      throw new Error('not part of the twin')
    }
    return {
      async start({ container, to }) {
        fleet.moves.push({ container, from: source.id, to })
        if (fleet.migration.refuse !== undefined) throw new ShoalError('UNFIT', fleet.migration.refuse)
        const target = fleet.nodes.find(({ id }) => id === to)!
        const there = source.containers.get(container)!
        const id = `m${fleet.moves.length}`
        const record: Migration = {
          id,
          role: 'source',
          container: { id: container, name: container, runtime: 'containerd' },
          from: source.id,
          to,
          state: 'running',
          phase: 'x',
          rounds: [],
          downtimeMs: undefined,
          restoredAt: undefined,
          startedAt: Date.now(),
          endedAt: undefined,
          reason: undefined,
        }
        all.push(record)
        const move = {
          id,
          container: { ...record.container, labels: there.labels },
          from: source.id,
          to,
        }
        const signal = AbortSignal.timeout(10e3)
        const hooks = (node: FleetNode): MoveHooks => node.daemon!.executor.hooks
        const run = async (): Promise<Migration> => {
          const prepared = await hooks(target).prepare(move, signal)
          await sleep(20)
          if (fleet.migration.fail !== undefined) {
            await hooks(target).discarded(move, signal)
            return Object.assign(record, { state: 'rolled-back', reason: fleet.migration.fail })
          }
          there.running = false
          target.containers.set(container, {
            labels: { ...there.labels, ...prepared.labels },
            running: true,
            made: there.made,
          })
          noteDouble(container)
          await hooks(target).arrived(
            { ...move, container: { ...move.container, labels: { ...there.labels, ...prepared.labels } } },
            { pid: ALIVE } as never,
            signal,
          )
          source.containers.delete(container)
          await hooks(source).left(move, signal)
          return Object.assign(record, { state: 'done' })
        }
        ends.set(id, run())
        return record
      },
      get: (id) => all.find((each) => each.id === id),
      list: () => all,
      ended: (id) => ends.get(id)!,
      cancel: unused,
      decide: unused,
      drain: unused,
      onChange: unused,
      hooks: () => {},
      close: async () => {},
    }
  }

  for (let i = 0; i < count; i++) fleet.nodes.push(makeNode(i))
  for (const node of fleet.nodes) {
    for (const other of fleet.nodes) if (other !== node) node.links.set(other.id, 1)
    await node.start()
  }
  return fleet
}

type Step = (ms: number, signal: AbortSignal) => Promise<void>

function twinDriver(node: FleetNode, step: Step, noteDouble: (name: string) => void): PodDriver {
  const shown = (name: string, { labels, running }: Container): DriverPod => ({
    name,
    labels: { ...labels },
    pid: running ? ALIVE : undefined,
  })
  return {
    runtime: 'containerd',
    unfit: async () => undefined,
    async pull(image, signal) {
      await step(DELAY.pull, signal)
      node.pulls.set(image, (node.pulls.get(image) ?? 0) + 1)
      if (node.broken.has(image)) throw new ShoalError('RUNTIME', `${image} cannot be pulled`)
    },
    list: async () => [...node.containers].map(([name, container]) => shown(name, container)),
    async find(name, signal) {
      await step(1, signal)
      const found = node.containers.get(name)
      return found === undefined ? undefined : shown(name, found)
    },
    async start({ name, labels }, signal) {
      node.containers.delete(name)
      await step(DELAY.start, signal)
      node.containers.set(name, { labels: { ...labels }, running: false, made: Date.now() })
      await step(DELAY.start, signal)
      node.containers.get(name)!.running = true
      noteDouble(name)
      return { pid: ALIVE }
    },
    ending: async () => 'it ended with code 1',
    usage: async (name) => node.used.get(name) ?? 0,
    async remove(name, signal) {
      await step(DELAY.remove, signal)
      return node.containers.delete(name)
    },
  }
}

function twinNetwork(node: FleetNode, step: Step): PodNetwork {
  return {
    shared: false,
    async attach(name, ports, signal) {
      await step(DELAY.attach, signal)
      node.networks.set(name, ports)
      return `/netns/${name}`
    },
    async detach(name, signal) {
      await step(DELAY.attach, signal)
      node.networks.delete(name)
    },
    list: async () => [...node.networks.keys()],
  }
}

export function pod(name: string, more: Partial<PodSpec> = {}): PodSpec {
  return {
    name,
    image: 'lab/app:1',
    ui: false,
    args: [],
    env: {},
    cpu: 0.1,
    memory: 16 * 2 ** 20,
    storage: 1e6,
    ports: [8080],
    ...more,
  }
}

export function app(pods: PodSpec[], more: Partial<AppSpec> = {}): AppSpec {
  return { name: 'app', pods, requiredDelayMs: undefined, executionTimeS: undefined, priority: 1, ...more }
}

export async function until(
  what: string,
  test: () => boolean | Promise<boolean>,
  timeoutMs = 120e3,
): Promise<void> {
  const end = performance.now() + timeoutMs
  while (!(await test())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms`)
    await sleep(15)
  }
}
