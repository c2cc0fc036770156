/**
 * The bodies of the manager's RPC, and their checks: what comes from a peer is data of unknown shape until it passed
 * here. Bounds follow from the largest blob that is served, 1 TiB.
 */
import { type Digest, isDigest, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE, cidOfHash, hashOfCid } from '../../blockstore/index.ts'
import type { Cut, DispatchAnswer, DispatchRequest, Lease, ReleaseReason } from '../../scheduler/index.ts'

const MAX_BLOCKS = 2 ** 40 / BLOCK_SIZE
const MAX_CUTS = 8192
const REASONS: readonly string[] = ['done', 'idle', 'no-range', 'missing', 'denied', 'unreachable']

type Fields = Record<string, unknown>

function bad(what: string): never {
  throw new ShoalError('PROTOCOL', `malformed message: ${what}`)
}

export function fields(body: unknown): Fields {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) bad('not a map')
  return body as Fields
}

export function text(value: unknown, what: string, max = 512): string {
  return typeof value === 'string' && value.length <= max ? value : bad(what)
}

function count(value: unknown, what: string, max = Number.MAX_SAFE_INTEGER): number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max
    ? (value as number)
    : bad(what)
}

function bytes(value: unknown, what: string, max: number): Uint8Array {
  return value instanceof Uint8Array && value.byteLength <= max ? value : bad(what)
}

export function list(value: unknown, what: string, max: number): unknown[] {
  return Array.isArray(value) && value.length <= max ? value : bad(what)
}

export function digestField(value: unknown): Digest {
  const digest = text(value, 'digest')
  return isDigest(digest) ? digest : bad('digest')
}

function optional<T>(value: unknown, read: (value: unknown) => T): T | undefined {
  return value === undefined || value === null ? undefined : read(value)
}

export function packCut(cut: Cut): unknown {
  return [cut.index, hashOfCid(cut.cid), cut.length, cut.seeder, cut.signature]
}

export function readCut(value: unknown): Cut {
  const [index, hash, length, seeder, signature] = list(value, 'cut', 5)
  const digest = bytes(hash, 'cut hash', 32)
  if (digest.byteLength !== 32) bad('cut hash')
  return {
    index: count(index, 'cut index', MAX_BLOCKS),
    cid: cidOfHash(digest),
    length: count(length, 'cut length', BLOCK_SIZE),
    seeder: text(seeder, 'cut seeder', 128),
    signature: bytes(signature, 'cut signature', 64),
  }
}

export function readCuts(value: unknown): Cut[] {
  return list(value ?? [], 'cuts', MAX_CUTS).map(readCut)
}

const readSize = (v: unknown): number => count(v, 'size', 2 ** 40)
const readMediaType = (v: unknown): string => text(v, 'media type', 255)
export const readBits = (v: unknown): Uint8Array => bytes(v, 'bitfield', MAX_BLOCKS / 8 + 1)

export function packDispatch(digest: Digest, request: DispatchRequest): unknown {
  const { peer: _, cuts, ...rest } = request
  return defined({ ...rest, digest, cuts: cuts.slice(0, MAX_CUTS).map(packCut) })
}

export function readDispatch(peer: string, body: unknown): { digest: Digest; request: DispatchRequest } {
  const f = fields(body)
  const size = optional(f.size, readSize)
  const mediaType = optional(f.mediaType, readMediaType)
  const seed = optional(f.seed, (v) => ({ rate: Math.max(0, Number(fields(v).rate) || 0) }))
  const released = optional(f.released, (v) => list(v, 'released', 64).map(readRelease))
  return {
    digest: digestField(f.digest),
    request: {
      peer,
      version: count(f.version, 'version'),
      have: readBits(f.have),
      cuts: readCuts(f.cuts),
      pulling: f.pulling === true,
      ...(size === undefined ? {} : { size }),
      ...(mediaType === undefined ? {} : { mediaType }),
      ...(seed === undefined ? {} : { seed }),
      ...(released === undefined ? {} : { released }),
    },
  }
}

function readReason(value: unknown): ReleaseReason {
  const reason = text(value, 'reason', 32)
  return REASONS.includes(reason) ? (reason as ReleaseReason) : bad('reason')
}

function readRelease(value: unknown): { id: string; reason: ReleaseReason; detail?: string } {
  const f = fields(value)
  const detail = optional(f.detail, (v) => text(v, 'detail', 4096))
  return {
    id: text(f.id, 'lease', 64),
    reason: readReason(f.reason),
    ...(detail === undefined ? {} : { detail }),
  }
}

/** CBOR has no Infinity that a strict decoder takes: an open-ended lease travels as -1. */
const packLease = (lease: Lease): unknown => ({
  ...lease,
  count: lease.count === Infinity ? -1 : lease.count,
  ttlMs: Math.round(lease.ttlMs),
})

function readLease(value: unknown): Lease {
  const f = fields(value)
  return {
    id: text(f.id, 'lease', 64),
    start: count(f.start, 'lease start', MAX_BLOCKS),
    count: f.count === -1 ? Infinity : count(f.count, 'lease count', MAX_BLOCKS),
    ttlMs: count(f.ttlMs, 'lease ttl'),
  }
}

export function packAnswer(answer: DispatchAnswer): unknown {
  return defined({
    ...answer,
    retryMs: Math.round(answer.retryMs),
    cuts: answer.cuts.map(packCut),
    leases: answer.leases.map(packLease),
  })
}

export function readAnswer(body: unknown): DispatchAnswer {
  const f = fields(body)
  const size = optional(f.size, readSize)
  const mediaType = optional(f.mediaType, readMediaType)
  const refusal = optional(f.refusal, (v) => {
    const r = fields(v)
    const detail = optional(r.detail, (d) => text(d, 'detail', 4096))
    return { reason: readReason(r.reason), ...(detail === undefined ? {} : { detail }) }
  })
  return {
    version: count(f.version, 'version'),
    cuts: readCuts(f.cuts),
    holders: list(f.holders, 'holders', 256).map((value) => {
      const h = fields(value)
      return { peer: text(h.peer, 'peer', 128), have: readBits(h.have), pulling: h.pulling === true }
    }),
    leases: list(f.leases, 'leases', 64).map(readLease),
    seeding: f.seeding === true,
    retryMs: count(f.retryMs, 'retryMs', 60_000),
    ...(size === undefined ? {} : { size }),
    ...(mediaType === undefined ? {} : { mediaType }),
    ...(refusal === undefined ? {} : { refusal }),
  }
}

/** A neighbour got blocks: those that it brought into the site by their cuts, the others by their indexes. */
export interface HaveNote {
  digest: Digest
  cuts: Cut[]
  indexes: number[]
  /** The sender is still pulling and wants to hear in turn. */
  pulling: boolean
}

export function packHave(note: HaveNote): unknown {
  return [note.digest, note.pulling, note.cuts.map(packCut), note.indexes]
}

export function readHave(body: unknown): HaveNote[] {
  return list(body, 'notes', 256).map((value) => {
    const [digest, pulling, cuts, indexes] = list(value, 'note', 4)
    return {
      digest: digestField(digest),
      pulling: pulling === true,
      cuts: readCuts(cuts),
      indexes: list(indexes, 'indexes', MAX_CUTS).map((index) => count(index, 'index', MAX_BLOCKS)),
    }
  })
}

/** A blob's map as far as one node knows it, a page of at most MAX_CUTS cuts at a time. */
export interface MapPage {
  size: number | undefined
  mediaType: string | undefined
  have: Uint8Array
  cuts: Cut[]
  /** More cuts follow from this index on. */
  next: number | undefined
}

export function packMap(page: MapPage): unknown {
  return defined({ ...page, cuts: page.cuts.map(packCut) })
}

export function readMap(body: unknown): MapPage {
  const f = fields(body)
  return {
    size: optional(f.size, readSize),
    mediaType: optional(f.mediaType, readMediaType),
    have: readBits(f.have),
    cuts: readCuts(f.cuts),
    next: optional(f.next, (v) => count(v, 'next', MAX_BLOCKS)),
  }
}

export const MAP_PAGE = MAX_CUTS

function defined(map: Fields): Fields {
  return Object.fromEntries(Object.entries(map).filter(([, value]) => value !== undefined))
}
