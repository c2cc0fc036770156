import type { Digest } from '../base/index.ts'
import type { Cid, Segment } from './types.ts'

/*
 * The index's keys. Blocks are ordered as their files lie in directories, so that one directory compares with one range.
 *
 *   blob/<digest>                          BlobEntry's lasting fields, JSON
 *   seg/<digest>/<offset>                  StoredSegment, JSON
 *   block/<shard>/<cid>                    "<size> <digest of the blob that brought it>"
 *   block/<shard>/<cid>/<digest>/<offset>  a segment that needs the block; no value
 *   kept/<digest>/<offset>                 a place that is kept, whether its block is here or not; no value
 *   record/<name>/<key>                    JSON of other rooms
 */

/** Digits of an offset in a key: those of the largest safe integer, so that keys sort by offset. */
const OFFSET_DIGITS = 16

export const BLOBS = 'blob/'
export const SEGMENTS = 'seg/'
export const BLOCKS = 'block/'
export const KEPT = 'kept/'

/** The directory of a block's file: the CID's end, as its start is the same for all. */
export function shardOf(cid: Cid): string {
  return cid.slice(-1)
}

export function blobKey(digest: Digest): string {
  return `${BLOBS}${digest}`
}

export function segmentsOf(digest: Digest): string {
  return `${SEGMENTS}${digest}/`
}

export function segmentKey(digest: Digest, offset: number): string {
  return segmentsOf(digest) + String(offset).padStart(OFFSET_DIGITS, '0')
}

export function blockKey(cid: Cid): string {
  return `${BLOCKS}${shardOf(cid)}/${cid}`
}

export function refsOf(cid: Cid): string {
  return `${blockKey(cid)}/`
}

export function refKey(cid: Cid, digest: Digest, offset: number): string {
  return `${refsOf(cid)}${digest}/${String(offset).padStart(OFFSET_DIGITS, '0')}`
}

export function keptOf(digest: Digest): string {
  return `${KEPT}${digest}/`
}

export function keptKey(digest: Digest, offset: number): string {
  return keptOf(digest) + String(offset).padStart(OFFSET_DIGITS, '0')
}

/** `<digest>/<offset>`: how segment, reference and kept keys end. */
export function parsePlace(text: string): { digest: Digest; offset: number } {
  const cut = text.lastIndexOf('/')
  return { digest: text.slice(0, cut) as Digest, offset: Number(text.slice(cut + 1)) }
}

/** The least key that comes after all that start with `prefix` (prefixes here end in ASCII). */
export function afterAll(prefix: string): string {
  return prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1)
}

export interface BlockValue {
  size: number
  owner: Digest
}

export function encodeBlock({ size, owner }: BlockValue): string {
  return `${size} ${owner}`
}

export function decodeBlock(value: string): BlockValue {
  const cut = value.indexOf(' ')
  return { size: Number(value.slice(0, cut)), owner: value.slice(cut + 1) as Digest }
}

interface StoredSegment {
  cid: Cid
  length: number
  seeder?: string
  /** base64 */
  signature?: string
}

export function encodeSegment(segment: Segment): string {
  const stored: StoredSegment = { cid: segment.cid, length: segment.length }
  if (segment.seeder !== undefined) stored.seeder = segment.seeder
  if (segment.signature !== undefined) stored.signature = Buffer.from(segment.signature).toString('base64')
  return JSON.stringify(stored)
}

export function decodeSegment(offset: number, value: string): Segment {
  const stored = JSON.parse(value) as StoredSegment
  const segment: Segment = { cid: stored.cid, offset, length: stored.length }
  if (stored.seeder !== undefined) segment.seeder = stored.seeder
  // A copy: small Buffers are views of a shared pool, which they would keep alive.
  if (stored.signature !== undefined) {
    segment.signature = Uint8Array.from(Buffer.from(stored.signature, 'base64'))
  }
  return segment
}
