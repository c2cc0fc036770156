import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto'

/** DER of an X25519 key up to its 32 bytes (RFC 8410). */
const SPKI = Buffer.from('302a300506032b656e032100', 'hex')
const PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex')
const KEY = 32
const TAG = 16
const P = 2n ** 255n - 19n

/**
 * A small secret for one receiver, who is known by an Ed25519 public key: an ephemeral X25519 key agreement, HKDF-SHA256, AES-256-GCM;
 * the form is `ephemeral public key || ciphertext || tag`. The key of the cipher is used once, so its nonce is zero (as RFC 9180 does in
 * base mode). `context` says what it is for: what was sealed for something else does not open.
 */
export function sealFor(receiver: Uint8Array, plain: Uint8Array, context: string): Buffer {
  const { privateKey, publicKey } = generateKeyPairSync('x25519')
  const ephemeral = rawOf(publicKey)
  const theirs = toMontgomery(receiver)
  const shared = diffieHellman({ privateKey, publicKey: publicKeyOf(theirs) })
  const cipher = createCipheriv('aes-256-gcm', derive(shared, ephemeral, theirs, context), Buffer.alloc(12))
  return Buffer.concat([ephemeral, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

/** Opens what `sealFor` made; undefined where it was not made for this key and context, or was changed. @param seed the private key */
export function createOpener(seed: Uint8Array): (sealed: Uint8Array, context: string) => Buffer | undefined {
  const privateKey = privateKeyOf(seed)
  const own = rawOf(createPublicKey(privateKey))
  return (sealed, context) => {
    if (sealed.length < KEY + TAG) return undefined
    try {
      const ephemeral = sealed.subarray(0, KEY)
      const shared = diffieHellman({ privateKey, publicKey: publicKeyOf(ephemeral) })
      const decipher = createDecipheriv(
        'aes-256-gcm',
        derive(shared, ephemeral, own, context),
        Buffer.alloc(12),
      ).setAuthTag(sealed.subarray(sealed.length - TAG))
      return Buffer.concat([decipher.update(sealed.subarray(KEY, sealed.length - TAG)), decipher.final()])
    } catch {
      return undefined
    }
  }
}

function derive(shared: Buffer, ephemeral: Uint8Array, receiver: Uint8Array, context: string): Uint8Array {
  return new Uint8Array(
    hkdfSync('sha256', shared, Buffer.concat([ephemeral, receiver]), `shoal sealed box\0${context}`, KEY),
  )
}

/** The X25519 private key of an Ed25519 one: the scalar of RFC 8032, 5.1.5; X25519 itself clamps it. */
function privateKeyOf(seed: Uint8Array): KeyObject {
  const scalar = createHash('sha512').update(seed).digest().subarray(0, KEY)
  return createPrivateKey({ key: Buffer.concat([PKCS8, scalar]), format: 'der', type: 'pkcs8' })
}

/** The X25519 public key of an Ed25519 one: u = (1 + y) / (1 - y), the map of RFC 7748, 4.1. Both are public, so time tells nothing. */
function toMontgomery(ed25519: Uint8Array): Buffer {
  const bytes = Buffer.from(ed25519).reverse()
  // The sign of x stands in the highest bit.
  bytes[0]! &= 0x7f
  const y = BigInt(`0x${bytes.toString('hex')}`)
  const u = ((1n + y) * power((1n - y + P) % P, P - 2n)) % P
  return Buffer.from(u.toString(16).padStart(2 * KEY, '0'), 'hex').reverse()
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  let square = base % P
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % P
    square = (square * square) % P
  }
  return result
}

function publicKeyOf(raw: Uint8Array): KeyObject {
  return createPublicKey({ key: Buffer.concat([SPKI, raw]), format: 'der', type: 'spki' })
}

function rawOf(key: KeyObject): Buffer {
  return key.export({ format: 'der', type: 'spki' }).subarray(SPKI.length)
}
