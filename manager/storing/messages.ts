/** The bodies of the RPC between the nodes that keep a blob, and their checks: what comes from a peer is of unknown shape. */
import { type Digest, ShoalError } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { bitIndexes } from '../../scheduler/index.ts'
import { digestField, fields, list, text } from '../tasks/index.ts'
import type { PeerId } from '../types.ts'
import type { StoredBlob } from './types.ts'

/** What a node has of a blob on its disk, and what of it it keeps whether it is there or not. */
export interface Holding {
  here: Uint8Array
  kept: Uint8Array
}

/** Asks a node to keep these blocks too, and to fetch what it lacks of them. */
export interface TakeRequest {
  blob: StoredBlob
  keep: Uint8Array
  sources: { peer: PeerId; here: Uint8Array }[]
  /** At the rate for repairs: nobody waits for it. */
  paced: boolean
}

/** Digests that one message asks for. */
export const PAGE = 128
const MAX_SIZE = 2 ** 40
const MAX_BITS = MAX_SIZE / BLOCK_SIZE / 8
const MAX_SOURCES = 64

function bits(value: unknown): Uint8Array {
  if (value instanceof Uint8Array && value.byteLength <= MAX_BITS) return value
  throw new ShoalError('PROTOCOL', 'malformed message: bitfield')
}

export const readDigests = (body: unknown): Digest[] =>
  list(fields(body).digests, 'digests', PAGE).map(digestField)

export const packHoldings = (holdings: readonly Holding[]): unknown => ({
  holdings: holdings.map(({ here, kept }) => [here, kept]),
})

export function readHoldings(body: unknown, count: number): Holding[] {
  const holdings = list(fields(body).holdings, 'holdings', count).map((value) => {
    const [here, kept] = list(value, 'holding', 2)
    return { here: bits(here), kept: bits(kept) }
  })
  if (holdings.length !== count) throw new ShoalError('PROTOCOL', 'malformed message: holdings')
  return holdings
}

export function packTake({ blob, keep, sources, paced }: TakeRequest): unknown {
  return { blob, keep, sources: sources.slice(0, MAX_SOURCES).map(({ peer, here }) => [peer, here]), paced }
}

export function readTake(body: unknown): TakeRequest {
  const f = fields(body)
  const { digest, size, mediaType } = fields(f.blob)
  if (!Number.isSafeInteger(size) || (size as number) < 0 || (size as number) > MAX_SIZE)
    throw new ShoalError('PROTOCOL', 'malformed message: size')
  const keep = bits(f.keep)
  if ((bitIndexes(keep).at(-1) ?? -1) >= Math.ceil((size as number) / BLOCK_SIZE))
    throw new ShoalError('PROTOCOL', 'malformed message: more blocks than the blob has')
  const type = mediaType === undefined ? {} : { mediaType: text(mediaType, 'media type', 255) }
  return {
    blob: { digest: digestField(digest), size: size as number, ...type },
    keep,
    sources: list(f.sources, 'sources', MAX_SOURCES).map((value) => {
      const [peer, here] = list(value, 'source', 2)
      return { peer: text(peer, 'peer', 128), here: bits(here) }
    }),
    paced: f.paced === true,
  }
}

export function readRelease(body: unknown): { digest: Digest; drop: Uint8Array } {
  const f = fields(body)
  return { digest: digestField(f.digest), drop: bits(f.drop) }
}
