import { createHmac, timingSafeEqual } from 'node:crypto'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { type Digest, isDigest, ShoalError } from '../../base/index.ts'
import type { NodeIdentity, PeerId, StoredBlob } from '../../manager/index.ts'
import type { Recreation } from '../runtime/types.ts'
import { isName } from './names.ts'
import type { HostNeeds } from './types.ts'

/** What of a checkpoint tells secrets: its configuration has environment variables, its digests those of memory. */
export interface Inside {
  recreation: Recreation
  /** CRIU's images among the files of the state, in the order in which the virtual tar has them. */
  criu: { path: string; size: number }[]
  /** The writable layer's tar, and its CRC-32. */
  rw: { size: number; crc: number }
  /** The OCI index, as it is served. */
  index: string
}

/** A published checkpoint as its record has it, signed. */
export interface CheckpointDocument {
  name: string
  version: number
  node: PeerId
  /** Which of the node's places for versions of the name it is in; see slots.ts. */
  slot: number
  site: string
  createdAt: number
  expiresAt?: number
  recipe: Digest
  /** Recipe and packs: what has to be in the site. */
  blobs: StoredBlob[]
  /** Under which name the site stores the blobs, and under which the base image. */
  storedAs: string
  imageStoredAs?: string
  size: number
  added: number
  copies: number
  needs: HostNeeds
  /** Of the container, for people: in the clear also where the rest is sealed. */
  container: { name: string; runtime: string; image?: { reference: string; digest?: Digest } }
  /** Of the OCI index. */
  digest: Digest
  inside?: Inside
  /** In place of `inside`: it is encrypted with a key that is sealed for each node which may open it. */
  sealed?: { keyId: string; keys: { node: PeerId; key: string }[]; inside: string }
}

export interface Trust {
  identity: Pick<NodeIdentity, 'sign' | 'verify'>
  /** What all nodes of the cluster know and nobody else does. */
  secret: Uint8Array
}

/** Of the text, deflated. What is longer does not fit into a record, and less comes out of an honest one. */
const MAX_TEXT = 4 * 2 ** 20
const PREFIX = Buffer.from('shoal-checkpoint\0')

export const PREFIX_KEY = 'checkpoint/'
export const keyOf = ({ name, node, slot }: Pick<CheckpointDocument, 'name' | 'node' | 'slot'>): string =>
  `${PREFIX_KEY}${name}/${node}/${slot}`

/**
 * The record's value: the document's very bytes, the signature of its node over them, and a MAC under the cluster's secret. The signature
 * says who made it, the MAC that the maker was a node of this cluster, also when it is long gone.
 */
export function signDocument(document: CheckpointDocument, { identity, secret }: Trust): unknown {
  const text = deflateRawSync(Buffer.from(JSON.stringify(document)))
  const signature = Buffer.from(identity.sign(Buffer.concat([PREFIX, text])))
  const mac = macOf(text, signature, secret)
  return {
    document: text.toString('base64'),
    signature: signature.toString('base64'),
    mac: mac.toString('base64'),
  }
}

/** Reads a record's value. @throws DENIED where a node of this cluster did not sign exactly this under exactly this key */
export function readDocument(key: string, value: unknown, { identity, secret }: Trust): CheckpointDocument {
  const { document, signature, mac } = (typeof value === 'object' && value !== null ? value : {}) as Record<
    string,
    unknown
  >
  if (typeof document !== 'string' || typeof signature !== 'string' || typeof mac !== 'string')
    throw denied(key, 'it is none')
  const text = Buffer.from(document, 'base64')
  const signed = Buffer.from(signature, 'base64')
  const expected = macOf(text, signed, secret)
  const given = Buffer.from(mac, 'base64')
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
    throw denied(key, 'no node of this cluster made it, or it was changed')
  }
  const read = parse(key, text)
  if (!identity.verify(read.node, Buffer.concat([PREFIX, text]), signed)) {
    throw denied(key, `it is not signed by ${read.node}`)
  }
  if (keyOf(read) !== key) throw denied(key, 'it was published under another name')
  return read
}

function macOf(text: Uint8Array, signature: Uint8Array, secret: Uint8Array): Buffer {
  return createHmac('sha256', secret).update(PREFIX).update(signature).update(text).digest()
}

/** Only nodes of the cluster get so far; a shape that is not understood here comes from another version of Shoal. */
function parse(key: string, text: Uint8Array): CheckpointDocument {
  let read: Partial<CheckpointDocument> | null
  try {
    read = JSON.parse(inflateRawSync(text, { maxOutputLength: MAX_TEXT }).toString()) as typeof read
  } catch (cause) {
    throw new ShoalError('DENIED', `checkpoint ${shown(key)} cannot be read`, { cause })
  }
  const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)
  const { inside, sealed } = read ?? {}
  const good =
    typeof read?.name === 'string' &&
    isName(read.name) &&
    isNumber(read.version) &&
    isNumber(read.slot) &&
    typeof read.node === 'string' &&
    isNumber(read.createdAt) &&
    (read.expiresAt === undefined || isNumber(read.expiresAt)) &&
    isDigest(String(read.recipe)) &&
    isDigest(String(read.digest)) &&
    Array.isArray(read.blobs) &&
    read.blobs.every((blob) => isDigest(String(blob?.digest)) && Number.isSafeInteger(blob.size)) &&
    isNumber(read.size) &&
    typeof read.storedAs === 'string' &&
    Array.isArray(read.needs?.cpu) &&
    typeof read.container?.name === 'string' &&
    (inside === undefined) !== (sealed === undefined) &&
    (sealed === undefined || Array.isArray(sealed.keys))
  if (!good) throw denied(key, 'it is of a version that is not known here')
  return read as CheckpointDocument
}

function shown(key: string): string {
  const [, name, node] = key.split('/')
  return `${name} of ${node}`
}

function denied(key: string, why: string): ShoalError {
  return new ShoalError('DENIED', `checkpoint ${shown(key)} is refused: ${why}`)
}
