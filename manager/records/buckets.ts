import { createHash } from 'node:crypto'

export const BUCKETS = 256
const DIGEST_BYTES = 8

/** An entry's place in the order of `walk`. */
export type Place = [bucket: number, key: string]

/** What is in the table, in short: enough to find out where two tables differ. */
export interface Buckets {
  /** @param fingerprint 8 bytes */
  set(key: string, fingerprint: Buffer, size: number): void
  delete(key: string): void
  fingerprint(key: string): string | undefined
  sizeOf(key: string): number
  /** For each bucket, the exclusive or of its fingerprints. */
  digests(): Uint8Array
  /** Buckets whose digests differ from those of another node. */
  differing(theirs: Uint8Array): number[]
  /** The entries of some buckets in their order, then by key; behind `from` where that is given, up to `to` itself. */
  walk(
    buckets: readonly number[],
    range: { from: Place | undefined; to: Place | undefined },
  ): Iterable<[place: Place, fingerprint: string]>
  readonly count: number
  readonly bytes: number
}

export const DIGESTS_BYTES = BUCKETS * DIGEST_BYTES

export function bucketOf(key: string): number {
  return createHash('sha256').update(key).digest()[0]!
}

export function createBuckets(): Buckets {
  const buckets = Array.from(
    { length: BUCKETS },
    () => new Map<string, { fingerprint: string; size: number }>(),
  )
  const digests = Buffer.alloc(DIGESTS_BYTES)
  let count = 0
  let bytes = 0

  const of = (key: string) => buckets[bucketOf(key)]!
  const toggle = (bucket: number, fingerprint: Buffer): void => {
    for (let i = 0; i < DIGEST_BYTES; i++) digests[bucket * DIGEST_BYTES + i]! ^= fingerprint[i]!
  }
  function remove(key: string): void {
    const bucket = bucketOf(key)
    const known = buckets[bucket]!.get(key)
    if (!known) return
    toggle(bucket, Buffer.from(known.fingerprint, 'hex'))
    buckets[bucket]!.delete(key)
    count--
    bytes -= known.size
  }

  return {
    set(key, fingerprint, size) {
      remove(key)
      const bucket = bucketOf(key)
      toggle(bucket, fingerprint)
      buckets[bucket]!.set(key, { fingerprint: fingerprint.toString('hex'), size })
      count++
      bytes += size
    },
    delete: remove,
    fingerprint: (key) => of(key).get(key)?.fingerprint,
    sizeOf: (key) => of(key).get(key)?.size ?? 0,
    digests: () => Uint8Array.from(digests),
    differing(theirs) {
      const at = (bytes: Uint8Array, bucket: number): Uint8Array =>
        bytes.subarray(bucket * DIGEST_BYTES, (bucket + 1) * DIGEST_BYTES)
      return Array.from({ length: BUCKETS }, (_, i) => i).filter(
        (i) => Buffer.compare(at(digests, i), at(theirs, i)) !== 0,
      )
    },
    *walk(wanted, { from, to }) {
      for (const bucket of wanted) {
        const keys = [...buckets[bucket]!.keys()].sort()
        for (const key of keys) {
          const place: Place = [bucket, key]
          if (from && comparePlaces(place, from) <= 0) continue
          if (to && comparePlaces(place, to) > 0) return
          const known = buckets[bucket]!.get(key)
          if (known) yield [place, known.fingerprint]
        }
      }
    },
    get count() {
      return count
    },
    get bytes() {
      return bytes
    },
  }
}

export function comparePlaces([bucketA, a]: Place, [bucketB, b]: Place): number {
  return bucketA - bucketB || (a < b ? -1 : a > b ? 1 : 0)
}
