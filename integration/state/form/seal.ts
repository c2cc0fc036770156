import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { ShoalError } from '../../../base/index.ts'

const NONCE = 12
const TAG = 16
/** Bytes that a sealed part is longer than what is in it. */
export const SEALED_EXTRA = NONCE + TAG

/** `nonce || AES-256-GCM ciphertext || tag`, the nonce random: one key is good for some 2^32 parts (NIST SP 800-38D, 8.3). */
export function sealPart(key: Uint8Array, plain: Uint8Array): Buffer {
  const nonce = randomBytes(NONCE)
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

/** @throws DENIED for what was sealed with another key, or changed since */
export function openPart(key: Uint8Array, sealed: Uint8Array): Buffer {
  try {
    const end = sealed.length - TAG
    const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, NONCE)).setAuthTag(
      sealed.subarray(end),
    )
    return Buffer.concat([decipher.update(sealed.subarray(NONCE, end)), decipher.final()])
  } catch (cause) {
    throw new ShoalError('DENIED', 'a part of the state does not open with this key', { cause })
  }
}
