import { readFile, statfs } from 'node:fs/promises'
import { availableParallelism, freemem, loadavg, totalmem } from 'node:os'
import { setImmediate as turn } from 'node:timers/promises'
import { type Digest, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager, PeerId } from '../../manager/index.ts'
import type { Reserved } from './executor.ts'
import type { Talk } from './talk.ts'

/** What a node says of itself when a manager asks; see `measure`. */
export interface NodeFacts {
  /** Why no pod can run there; undefined: it can. */
  unfit: string | undefined
  /** Cores and bytes that pods may have in all, other work of the machine taken off. */
  capacity: { cpu: number; memory: number; storage: number }
  reserved: Reserved[]
  score: number
  busy: number
  links: Link[]
  /** Bytes a second from upstream, as last seen; 0: not seen yet. */
  uplink: number
  /** Bytes that are here of each image that was asked about, in that order. */
  here: number[]
}

/** To a neighbour: there and back, ms; bytes a second as blocks came from there last, 0: not seen yet. */
export interface Link {
  peer: PeerId
  latencyMs: number
  rate: number
}

export interface Measures {
  /** `images`: for each the digests and sizes that it is made of. */
  measure(images: Digest[][], signal: AbortSignal): Promise<NodeFacts>
}

/** What the machine itself needs is not for pods. */
const MEMORY_PART = 0.95
const PING_KEPT_MS = 60e3
const PING_MS = 1000
const PINGS = 3
/** Neighbours that a delay is measured to; a UE's entry node is near, and so is what it needs. */
const MAX_NEIGHBOURS = 64
/** Rounds of the loop in a ms on the machine that counts as 1. */
const REFERENCE = 500e3
const LOOP = 400e3

/**
 * A node's own measures. Nothing is done until somebody asks: the CPU's score is taken once (some 5 ms), delays to neighbours
 * are asked for by a small RPC and kept for a minute, throughputs are those that the distribution manager has seen anyway.
 */
export function createMeasures(deps: {
  manager: Manager
  talk: Talk
  store: BlockStore
  dataDir: string
  /** Of the executor, where there is one. */
  reserved: () => Reserved[]
  unfit: (signal: AbortSignal) => Promise<string | undefined>
  now?: () => number
}): Measures {
  const { manager, talk, store, dataDir, reserved, unfit, now = Date.now } = deps
  const pings = new Map<PeerId, { at: number; latencyMs: number }>()
  let score: Promise<number> | undefined
  let uplink = 0

  async function ping(peer: PeerId, signal: AbortSignal): Promise<number | undefined> {
    const known = pings.get(peer)
    if (known !== undefined && now() - known.at < PING_KEPT_MS) return known.latencyMs
    let least = Number.POSITIVE_INFINITY
    try {
      for (let i = 0; i < PINGS; i++) {
        const from = performance.now()
        await talk.ask(peer, 'ping', undefined, { signal, timeoutMs: PING_MS })
        least = Math.min(least, performance.now() - from)
      }
    } catch {
      return known?.latencyMs
    }
    pings.set(peer, { at: now(), latencyMs: least })
    return least
  }

  async function links(signal: AbortSignal): Promise<Link[]> {
    const { self, members } = manager
    const rates = new Map(manager.peers().map(({ member, rate }) => [member.id, rate]))
    const neighbours = members.site().filter(({ id, state }) => id !== self.id && state === 'alive')
    for (const id of pings.keys()) if (members.find(id) === undefined) pings.delete(id)
    const all = neighbours.slice(0, MAX_NEIGHBOURS).map(async ({ id }) => {
      const latencyMs = await ping(id, signal)
      return latencyMs === undefined ? undefined : { peer: id, latencyMs, rate: rates.get(id) ?? 0 }
    })
    return (await Promise.all(all)).filter((link) => link !== undefined)
  }

  /** The fastest of the tasks that took at least a MiB from upstream: what the uplink can do, not what was asked of it. */
  function seenUplink(): number {
    for (const task of manager.tasks()) {
      const seconds = (now() - task.startedAt) / 1000
      if (task.state !== 'running' || task.sources.upstream < 2 ** 20 || seconds < 0.2) continue
      uplink = Math.max(uplink * 0.9, task.sources.upstream / seconds)
    }
    return uplink
  }

  async function bytesHere(digests: Digest[]): Promise<number> {
    let sum = 0
    for (const digest of digests) sum += (await store.blob(digest))?.bytesHere ?? 0
    return sum
  }

  return {
    async measure(images, signal) {
      score ??= measureCpu()
      const [memory, disk, measured, speed, no] = await Promise.all([
        memoryOf(),
        statfs(dataDir),
        links(signal),
        score,
        unfit(signal),
      ])
      const taken = reserved()
      const sum = (what: 'memory' | 'storage') => taken.reduce((all, entry) => all + entry[what], 0)
      const here: number[] = []
      for (const digests of images) here.push(await bytesHere(digests))
      return {
        unfit: no,
        capacity: {
          cpu: availableParallelism(),
          // Pods that use less than they reserved keep their reservation; what uses more than all of it is not theirs.
          memory: Math.max(0, memory.total * MEMORY_PART - Math.max(0, memory.used - sum('memory'))),
          storage: disk.bavail * disk.bsize,
        },
        reserved: taken,
        score: speed,
        busy: Math.min(1, loadavg()[0]! / availableParallelism()),
        links: measured,
        uplink: seenUplink(),
        here,
      }
    },
  }
}

/** What a node may give to pods at most, whoever asks: managers do not know of each other's latest. @throws UNFIT */
export async function admit(reserved: Reserved[], wanted: Omit<Reserved, 'manager'>): Promise<void> {
  const { total } = await memoryOf()
  const most = { cpu: availableParallelism(), memory: total * MEMORY_PART }
  for (const what of ['cpu', 'memory'] as const) {
    const sum = reserved.reduce((all, entry) => all + entry[what], wanted[what])
    if (sum > most[what] + 1e-6) throw new ShoalError('UNFIT', `the node has no ${what} left`)
  }
}

/** Bytes of memory that there are, and that cannot be had any more. */
async function memoryOf(): Promise<{ total: number; used: number }> {
  try {
    const text = await readFile('/proc/meminfo', 'latin1')
    const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)![1]) * 1024
    return { total: field('MemTotal'), used: field('MemTotal') - field('MemAvailable') }
  } catch {
    return { total: totalmem(), used: totalmem() - freemem() }
  }
}

/** How fast a core is: the best of five short rounds of integer arithmetic, so that what else runs counts little. */
export async function measureCpu(): Promise<number> {
  let best = 0
  for (let round = 0; round < 5; round++) {
    await turn()
    const from = performance.now()
    let x = 1
    for (let i = 0; i < LOOP; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0
    const took = Math.max(0.01, performance.now() - from)
    // `x` is used, so that the loop is not optimized away.
    if (x !== 0.5) best = Math.max(best, LOOP / took)
  }
  return Math.round((best / REFERENCE) * 100) / 100
}
