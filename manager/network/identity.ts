import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto'
import { join } from 'node:path'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { ShoalError } from '../../base/index.ts'
import type { PeerId } from '../types.ts'
import { createOpener, sealFor } from './sealedbox.ts'
import { readOrCreateSecret } from './secretfile.ts'

/** DER of a SubjectPublicKeyInfo up to the 32 bytes of an Ed25519 key (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')
const CACHED_KEYS = 4096

export interface Identity {
  privateKey: PrivateKey
  peerId: PeerId
  /** Ed25519, 64 bytes. */
  sign(bytes: Uint8Array): Buffer
  /** True when `signature` is the peer's over these bytes; false for anything else, malformed peer IDs included. */
  verify(peerId: PeerId, bytes: Uint8Array, signature: Uint8Array): boolean
  /** See NodeIdentity. */
  seal(peerId: PeerId, plain: Uint8Array, context: string): Buffer
  open(sealed: Uint8Array, context: string): Buffer | undefined
}

/**
 * The node's identity, `identity.pem` (PKCS#8, mode 0600) in the data directory; made on the first start.
 *
 * @throws CONFIG when the file is there but holds no Ed25519 private key
 */
export async function loadIdentity(directory: string): Promise<Identity> {
  const path = join(directory, 'identity.pem')
  const { content } = await readOrCreateSecret(path, () =>
    generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  )
  return createIdentity(parse(content, path))
}

/** An identity from its private key. @throws CONFIG when it is no Ed25519 private key */
export function createIdentity(key: KeyObject): Identity {
  const { d, x } = key.export({ format: 'jwk' })
  if (key.asymmetricKeyType !== 'ed25519' || d === undefined || x === undefined) {
    throw new ShoalError('CONFIG', 'the identity is not an Ed25519 private key')
  }
  const raw = Buffer.concat([Buffer.from(d, 'base64url'), Buffer.from(x, 'base64url')])
  const privateKey = privateKeyFromRaw(raw)
  const publicKeys = new Map<PeerId, KeyObject>()
  let opener: ReturnType<typeof createOpener> | undefined

  const publicKeyOf = (peerId: PeerId): KeyObject | undefined => {
    const cached = publicKeys.get(peerId)
    if (cached !== undefined) return cached
    const made = publicKeyFrom(peerId)
    if (made === undefined) return undefined
    if (publicKeys.size >= CACHED_KEYS) publicKeys.delete(publicKeys.keys().next().value ?? '')
    publicKeys.set(peerId, made)
    return made
  }

  return {
    privateKey,
    peerId: peerIdFromPrivateKey(privateKey).toString(),
    sign: (bytes) => sign(null, bytes, key),
    verify(peerId, bytes, signature) {
      const publicKey = publicKeyOf(peerId)
      return publicKey !== undefined && signature.length === 64 && verify(null, bytes, publicKey, signature)
    },
    seal(peerId, plain, context) {
      const publicKey = publicKeyOf(peerId)
      if (publicKey === undefined) throw new ShoalError('NAME_INVALID', `not the ID of a node: ${peerId}`)
      const receiver = publicKey.export({ format: 'der', type: 'spki' }).subarray(SPKI_PREFIX.length)
      return sealFor(receiver, plain, context)
    },
    open: (sealed, context) => {
      opener ??= createOpener(raw.subarray(0, 32))
      return opener(sealed, context)
    },
  }
}

function parse(pem: Buffer, path: string): KeyObject {
  try {
    const key = createPrivateKey(pem)
    if (key.asymmetricKeyType === 'ed25519') return key
  } catch (error) {
    throw new ShoalError(
      'CONFIG',
      `${path} holds no private key; restore it, or remove it for a new identity`,
      {
        cause: error,
      },
    )
  }
  throw new ShoalError('CONFIG', `${path} holds a private key of another kind than Ed25519`)
}

/** An Ed25519 peer ID holds the public key itself. */
function publicKeyFrom(peerId: PeerId): KeyObject | undefined {
  try {
    const { publicKey } = peerIdFromString(peerId)
    if (publicKey?.type !== 'Ed25519') return undefined
    const key = Buffer.concat([SPKI_PREFIX, publicKey.raw])
    return createPublicKey({ key, format: 'der', type: 'spki' })
  } catch {
    return undefined
  }
}
