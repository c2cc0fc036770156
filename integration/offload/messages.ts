import { type Digest, isDigest, ShoalError } from '../../base/index.ts'
import { checkPod } from './checks.ts'
import type { PodOrder, PodPhase, PodRef, PodReport } from './executor.ts'
import type { Link, NodeFacts } from './measures.ts'

/** What nodes say to each other about pods; everything is checked, since another version or a broken node may have said it. */

const PHASES: Record<PodPhase, true> = {
  waiting: true,
  pulling: true,
  starting: true,
  running: true,
  failed: true,
  moving: true,
  arriving: true,
  removing: true,
}
const MAX_LIST = 100_000
const ID = /^[A-Za-z0-9-]{1,64}$/

export function fields(body: unknown): Record<string, unknown> {
  if (typeof body !== 'object' || body === null) throw new ShoalError('PROTOCOL', 'not a message of offload')
  return body as Record<string, unknown>
}

export function text(value: unknown, max = 1024): string {
  if (typeof value !== 'string' || value.length > max) throw new ShoalError('PROTOCOL', 'not a text')
  return value
}

export function maybe<T>(value: unknown, read: (value: unknown) => T): T | undefined {
  return value === undefined || value === null ? undefined : read(value)
}

function id(value: unknown): string {
  const read = text(value, 64)
  if (!ID.test(read)) throw new ShoalError('PROTOCOL', 'not an ID')
  return read
}

export function count(value: unknown): number {
  if (typeof value !== 'number' || !(value >= 0)) throw new ShoalError('PROTOCOL', 'not a number')
  return value
}

export function list<T>(value: unknown, read: (value: unknown) => T): T[] {
  if (!Array.isArray(value) || value.length > MAX_LIST) throw new ShoalError('PROTOCOL', 'not a list')
  return value.map(read)
}

export function readRef(body: unknown): PodRef {
  const { app, pod } = fields(body)
  return { app: id(app), pod: id(pod) }
}

export function readRefs(body: unknown): (PodRef & { generation: number })[] {
  return list(body, (value) => ({ ...readRef(value), generation: count(fields(value).generation) }))
}

export function readOrder(body: unknown): PodOrder {
  const f = fields(body)
  const spec = checkPod(f.spec)
  return {
    app: id(f.app),
    pod: spec.name,
    owner: text(f.owner, 256),
    manager: text(f.manager, 128),
    generation: count(f.generation),
    spec,
  }
}

export function readReport(body: unknown): PodReport {
  const f = fields(body)
  if (typeof f.phase !== 'string' || !Object.hasOwn(PHASES, f.phase))
    throw new ShoalError('PROTOCOL', 'not a phase')
  return {
    ...readRef(f),
    manager: text(f.manager, 128),
    generation: count(f.generation),
    phase: f.phase as PodPhase,
    ports: list(f.ports, (value) => {
      const { port, host } = fields(value)
      return { port: count(port), host: count(host) }
    }),
    referenceURI: maybe(f.referenceURI, (value) => text(value)),
    restarts: count(f.restarts),
    reason: maybe(f.reason, (value) => text(value, 65_536).slice(0, 2000)),
  }
}

export function readImages(body: unknown): Digest[][] {
  return list(body, (image) =>
    list(image, (digest) => {
      if (typeof digest !== 'string' || !isDigest(digest)) throw new ShoalError('PROTOCOL', 'not a digest')
      return digest
    }),
  )
}

export function readFacts(body: unknown): NodeFacts {
  const f = fields(body)
  const capacity = fields(f.capacity)
  return {
    unfit: maybe(f.unfit, (value) => text(value)),
    capacity: {
      cpu: count(capacity.cpu),
      memory: count(capacity.memory),
      storage: count(capacity.storage),
    },
    reserved: list(f.reserved, (value) => {
      const r = fields(value)
      return {
        manager: text(r.manager, 128),
        cpu: count(r.cpu),
        memory: count(r.memory),
        storage: count(r.storage),
      }
    }),
    score: count(f.score),
    busy: count(f.busy),
    links: list(f.links, (value): Link => {
      const { peer, latencyMs, rate } = fields(value)
      return { peer: text(peer, 128), latencyMs: count(latencyMs), rate: count(rate) }
    }),
    uplink: count(f.uplink),
    here: list(f.here, count),
  }
}
