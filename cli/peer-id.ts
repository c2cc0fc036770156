import { createPrivateKey } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { base58btc } from 'multiformats/bases/base58'
import { errnoOf, ShoalError } from '../base/index.ts'

/** Identity multihash of 36 bytes: the protobuf of an Ed25519 public key (type 1, 32 bytes of data), as libp2p has it. */
const PREFIX = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20]

/**
 * The peer ID of the identity in a PKCS#8 PEM file. Loading libp2p for it would take ten times as long.
 * @throws ShoalError NOT_FOUND | CONFIG
 */
export async function readPeerId(file: string): Promise<string> {
  let pem: string
  try {
    pem = await readFile(file, 'utf8')
  } catch (cause) {
    const errno = errnoOf(cause)
    if (errno === 'ENOENT') throw new ShoalError('NOT_FOUND', `no identity in ${file} yet`, { cause })
    throw new ShoalError('CONFIG', `cannot read ${file}: ${errno}`, { cause })
  }
  try {
    const { x, crv } = createPrivateKey(pem).export({ format: 'jwk' })
    if (crv !== 'Ed25519' || x === undefined) throw new Error(`a key of the kind ${crv}`)
    // Peer IDs are base58btc without the multibase prefix.
    return base58btc.encode(Uint8Array.from([...PREFIX, ...Buffer.from(x, 'base64url')])).slice(1)
  } catch (cause) {
    throw new ShoalError('CONFIG', `${file} holds no Ed25519 private key`, { cause })
  }
}
