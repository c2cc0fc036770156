import { randomBytes } from 'node:crypto'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { ShoalError } from '../../base/index.ts'
import type { NodeIdentity, PeerId } from '../../manager/index.ts'
import { openPart, sealPart } from '../state/form/seal.ts'
import type { Seal } from '../state/types.ts'
import type { CheckpointDocument, Inside } from './document.ts'

const KEY = 32
const MAX_INSIDE = 4 * 2 ** 20

type Sealed = NonNullable<CheckpointDocument['sealed']>

const contextOf = (keyId: string): string => `checkpoint ${keyId}`

/** A new key, as one checkpoint and its later versions for the same nodes have it. */
export function newSeal(): Seal {
  return { id: randomBytes(16).toString('hex'), key: randomBytes(KEY) }
}

export function sealInside(inside: Inside, seal: Seal, nodes: PeerId[], identity: NodeIdentity): Sealed {
  const keys = nodes.map((node) => ({
    node,
    key: Buffer.from(identity.seal(node, seal.key, contextOf(seal.id))).toString('base64'),
  }))
  const text = deflateRawSync(Buffer.from(JSON.stringify(inside)))
  return { keyId: seal.id, keys, inside: sealPart(seal.key, text).toString('base64') }
}

/** The key of a sealed checkpoint; undefined where it is not sealed for this node. */
export function sealOf(sealed: Sealed, self: PeerId, identity: NodeIdentity): Seal | undefined {
  const given = sealed.keys.find(({ node }) => node === self)
  const key = given && identity.open(Buffer.from(given.key, 'base64'), contextOf(sealed.keyId))
  return key?.length === KEY ? { id: sealed.keyId, key } : undefined
}

/** What is in a checkpoint, with its key where it is sealed. @throws DENIED where it is not sealed for this node */
export function openDocument(
  document: CheckpointDocument,
  self: PeerId,
  identity: NodeIdentity,
): { inside: Inside; seal: Seal | undefined } {
  const { inside, sealed, name, version } = document
  if (inside) return { inside, seal: undefined }
  const seal = sealed && sealOf(sealed, self, identity)
  if (!sealed || !seal) {
    throw new ShoalError('DENIED', `checkpoint ${name}:${version} is not sealed for this node`)
  }
  const text = openPart(seal.key, Buffer.from(sealed.inside, 'base64'))
  return {
    inside: JSON.parse(inflateRawSync(text, { maxOutputLength: MAX_INSIDE }).toString()) as Inside,
    seal,
  }
}

/** Whether both are sealed for exactly the same nodes. */
export function isForSame(sealed: Sealed | undefined, nodes: PeerId[]): boolean {
  const of = sealed?.keys.map(({ node }) => node) ?? []
  return of.length === nodes.length && nodes.every((node) => of.includes(node))
}
