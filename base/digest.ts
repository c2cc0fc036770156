import { createHash, type Hash } from 'node:crypto'
import { ShoalError } from './errors.ts'

/** An OCI digest, `algorithm:hex`; Shoal knows the two algorithms that the image spec registers. */
export type Digest = `sha256:${string}` | `sha512:${string}`

const FORM = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/

export function isDigest(text: string): text is Digest {
  return FORM.test(text)
}

/** @throws ShoalError DIGEST_INVALID */
export function parseDigest(text: string): Digest {
  if (isDigest(text)) return text
  throw new ShoalError('DIGEST_INVALID', `not a sha256 or sha512 digest: ${text.slice(0, 160)}`)
}

/** A hash object of the digest's own algorithm. */
export function hasherFor(digest: Digest): Hash {
  return createHash(digest.slice(0, digest.indexOf(':')))
}

export function digestOf(bytes: Uint8Array, algorithm: 'sha256' | 'sha512' = 'sha256'): Digest {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest
}
