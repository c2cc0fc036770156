/** What the two ends of a migration say to each other. What comes from a peer is of unknown shape until it was checked here. */
import { type Digest, isDigest, ShoalError } from '../../base/index.ts'
import type { HostNeeds } from '../checkpoint/types.ts'
import type { Recreation, RuntimeName } from '../runtime/types.ts'
import type { Verdict } from './entry.ts'
import type { HealthCheck } from './types.ts'

/** From the source to the target, but for `status`, which the target asks. All may be repeated. */
export const METHODS = {
  offer: 'migration.offer',
  prepared: 'migration.prepared',
  round: 'migration.round',
  start: 'migration.start',
  cancel: 'migration.cancel',
  committed: 'migration.committed',
  status: 'migration.status',
} as const

/** What is to come: all that the target needs to judge whether it can take it. */
export interface Offer {
  id: string
  container: { id: string; name: string; runtime: RuntimeName }
  recreation: Recreation
  needs: HostNeeds
  /** Bytes of memory and writable layer now, about. */
  size: number
  health: HealthCheck | undefined
  tcpEstablished: boolean
}

export interface Shipped {
  id: string
  recipe: Digest
  /** SHA-256 of the writable layer's tar in it: the same one need not be unpacked again. */
  writable: Digest
}

/** The target's last word, or that it has none yet. */
export type Outcome =
  /** ms since it has been running. */
  { verdict: 'runs'; sinceMs: number; fetched: number } | { verdict: 'never'; reason: string }

/** The source's: nothing is decided, its copy is gone, its copy is what runs, or it knows nothing of it. */
export type Standing = 'going' | 'gone' | 'kept' | 'unknown'

const MAX_TEXT = 4096
const MAX_LIST = 100
const MAX_JSON = 2 ** 21

function bad(what: string): ShoalError {
  return new ShoalError('PROTOCOL', `malformed message: ${what}`)
}

function fields(value: unknown, what = 'body'): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(what)
  return value as Record<string, unknown>
}

function text(value: unknown, what: string, pattern?: RegExp): string {
  if (typeof value !== 'string' || value.length > MAX_TEXT || !(pattern?.test(value) ?? true)) throw bad(what)
  return value
}

function texts(value: unknown, what: string, most = MAX_LIST): string[] {
  if (!Array.isArray(value) || value.length > most) throw bad(what)
  return value.map((each) => text(each, what))
}

function count(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) throw bad(what)
  return value
}

function digest(value: unknown, what: string): Digest {
  if (typeof value !== 'string' || !isDigest(value)) throw bad(what)
  return value
}

function table(value: unknown, what: string): Record<string, string> {
  return Object.fromEntries(Object.entries(fields(value, what)).map(([key, each]) => [key, text(each, what)]))
}

function runtimeName(value: unknown): RuntimeName {
  if (value !== 'containerd' && value !== 'docker' && value !== 'runc') throw bad('runtime')
  return value
}

/** No path and no flag can be made of it. */
const NAME = /^[A-Za-z0-9][\w.-]{0,252}$/
const ID = /^[\w-]{1,64}$/

export function readId(body: unknown): string {
  return text(fields(body).id, 'id', ID)
}

/** Why the other side gave up, for people. */
export function readReason(body: unknown): string {
  const { reason } = fields(body)
  return reason === undefined ? 'it was called off' : text(reason, 'reason')
}

export function readHealth(value: unknown): HealthCheck | undefined {
  if (value === undefined || value === null) return undefined
  const { kind, args, url, host, port } = fields(value, 'health')
  if (kind === 'exec') return { kind, args: texts(args, 'health') }
  if (kind === 'http') return { kind, url: text(url, 'health', /^http:\/\//) }
  if (kind !== 'tcp' || !Number.isInteger(port) || (port as number) < 1 || (port as number) > 65535)
    throw bad('health')
  return { kind, host: text(host, 'health', /^[\w.:-]{1,253}$/), port: port as number }
}

function readRecreation(value: unknown): Recreation {
  const { runtime, name, image, labels, spec, own } = fields(value, 'recreation')
  const checked = fields(spec, 'spec')
  text(checked.ociVersion, 'spec')
  let base: Recreation['image']
  if (image !== undefined && image !== null) {
    const { reference, digest: named } = fields(image, 'image')
    base = {
      reference: text(reference, 'image'),
      digest: named === undefined || named === null ? undefined : digest(named, 'image'),
    }
  }
  return {
    runtime: runtimeName(runtime),
    name: text(name, 'name', NAME),
    image: base,
    labels: table(labels, 'labels'),
    spec: checked as unknown as Recreation['spec'],
    own: fields(own, 'own'),
  }
}

function readNeeds(value: unknown): HostNeeds {
  const { arch, kernel, cpu, criu, oci, cgroups } = fields(value, 'needs')
  const { name, version } = fields(oci, 'oci')
  if (cgroups !== 'v1' && cgroups !== 'v2' && cgroups !== 'hybrid') throw bad('cgroups')
  return {
    arch: text(arch, 'arch'),
    kernel: text(kernel, 'kernel'),
    cpu: texts(cpu, 'cpu', 2000),
    criu: text(criu, 'criu'),
    oci: { name: text(name, 'oci'), version: text(version, 'oci') },
    cgroups,
  }
}

/** The recreation goes as JSON, which it is where it comes from: CBOR is spoken more strictly here than configurations are written. */
export function packOffer(offer: Offer): object {
  return { ...offer, recreation: JSON.stringify(offer.recreation) }
}

function parseJson(value: unknown, what: string): unknown {
  if (typeof value !== 'string' || value.length > MAX_JSON) throw bad(what)
  try {
    return JSON.parse(value)
  } catch {
    throw bad(what)
  }
}

export function readOffer(body: unknown): Offer {
  const { container, recreation, needs, size, health, tcpEstablished } = fields(body)
  const { id, name, runtime } = fields(container, 'container')
  return {
    id: readId(body),
    container: {
      id: text(id, 'container', NAME),
      name: text(name, 'container', NAME),
      runtime: runtimeName(runtime),
    },
    recreation: readRecreation(parseJson(recreation, 'recreation')),
    needs: readNeeds(needs),
    size: count(size, 'size'),
    health: readHealth(health),
    tcpEstablished: tcpEstablished === true,
  }
}

export function readShipped(body: unknown): Shipped {
  const { recipe, writable } = fields(body)
  return { id: readId(body), recipe: digest(recipe, 'recipe'), writable: digest(writable, 'writable') }
}

export function readReasons(body: unknown): string[] {
  return texts(fields(body).reasons, 'reasons')
}

export function readReady(body: unknown): boolean {
  return fields(body).ready === true
}

export function readFetched(body: unknown): number {
  return count(fields(body).fetched, 'fetched')
}

export function readOutcome(body: unknown): Outcome {
  const { verdict, sinceMs, fetched, reason } = fields(body)
  switch (verdict as Verdict) {
    case 'runs':
      return { verdict: 'runs', sinceMs: count(sinceMs, 'sinceMs'), fetched: count(fetched, 'fetched') }
    case 'never':
      return { verdict: 'never', reason: text(reason, 'reason') }
    default:
      throw bad('verdict')
  }
}

export function readStanding(body: unknown): Standing {
  const { standing } = fields(body)
  if (standing !== 'going' && standing !== 'gone' && standing !== 'kept' && standing !== 'unknown')
    throw bad('standing')
  return standing
}
