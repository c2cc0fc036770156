import { hashOfCid } from '../../blockstore/index.ts'
import type { Cut, PeerId } from '../../scheduler/index.ts'

/** Signs and checks with libp2p identities; see network/identity.ts. */
export interface Signer {
  id: PeerId
  sign(bytes: Uint8Array): Uint8Array
  verify(peer: PeerId, bytes: Uint8Array, signature: Uint8Array): boolean
}

/**
 * What a seeder vouches for: that upstream sent these bytes at this place of this blob. A later digest mismatch is
 * laid at the door of whoever signed the wrong cut.
 */
function statement(digest: string, cut: { index: number; cid: string; length: number }): Buffer {
  const head = Buffer.from(`shoal-cut\0${digest}\0${cut.index}\0${cut.length}\0`)
  return Buffer.concat([head, hashOfCid(cut.cid)])
}

export function signCut(
  signer: Signer,
  digest: string,
  cut: { index: number; cid: string; length: number },
): Cut {
  return { ...cut, seeder: signer.id, signature: signer.sign(statement(digest, cut)) }
}

export function isCutSigned(signer: Signer, digest: string, cut: Cut): boolean {
  return signer.verify(cut.seeder, statement(digest, cut), cut.signature)
}
