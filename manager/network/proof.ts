import { createHmac, timingSafeEqual } from 'node:crypto'

/** Bytes in a proof. */
export const PROOF_LENGTH = 32

/** HMAC-SHA256 of the parts under the cluster key. Variable parts must be told apart by the caller. */
export function proof(clusterKey: Uint8Array, ...parts: (string | Uint8Array)[]): Buffer {
  const mac = createHmac('sha256', clusterKey)
  for (const part of parts) mac.update(part)
  return mac.digest()
}

/** Compares in constant time. */
export function proofHolds(expected: Uint8Array, given: Uint8Array): boolean {
  return expected.length === given.length && timingSafeEqual(expected, given)
}
