import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

/** What goes wrong for the requests whose path (with query) matches. Several matching faults add up. */
export interface Fault {
  path: RegExp
  method?: 'GET' | 'HEAD' | 'POST'
  /** How many requests it happens to; default all. */
  count?: number
  /** How many matching requests pass before it happens. */
  skip?: number
  /** Answer with this status and an OCI error. */
  status?: number
  /** Of the answer: seconds or an HTTP date. */
  retryAfter?: string | number
  /** Further headers of the answer, whatever it is. */
  headers?: Record<string, string>
  /** Milliseconds before the answer begins. */
  delay?: number
  /** Close the connection instead of answering. */
  hangUp?: boolean
  /** Never answer. */
  stallHeaders?: boolean
  /** Close the connection after that many bytes of the body. */
  truncate?: number
  /** Send no more after that many bytes of the body, but keep the connection. */
  stall?: number
  /** Other bytes of the same length: the byte at this offset of the body is inverted. */
  corrupt?: number
  /** Ignore the Range header. */
  noRange?: boolean
  /** Chunked encoding, without Content-Length. */
  chunked?: boolean
  /** No Docker-Content-Digest. */
  noDigest?: boolean
  /** Send the client to the same path of this base URL (`http://127.0.0.1:1234`). */
  redirect?: string
  redirectStatus?: number
}

export interface FaultList {
  add(fault: Fault): () => void
  clear(): void
  /** The faults that happen to this request, merged. */
  take(method: string, path: string): Omit<Fault, 'path'>
}

export function createFaultList(): FaultList {
  let entries: { fault: Fault; skip: number; left: number }[] = []
  return {
    add(fault) {
      const entry = { fault, skip: fault.skip ?? 0, left: fault.count ?? Number.POSITIVE_INFINITY }
      entries.push(entry)
      return () => {
        entries = entries.filter((other) => other !== entry)
      }
    },
    clear() {
      entries = []
    },
    take(method, path) {
      const merged: Omit<Fault, 'path'> = {}
      for (const entry of entries) {
        const { fault } = entry
        if (entry.left <= 0 || !fault.path.test(path)) continue
        if (fault.method !== undefined && fault.method !== method) continue
        if (entry.skip-- > 0) continue
        entry.left--
        Object.assign(merged, fault)
      }
      return merged
    },
  }
}

/** Bytes a second shared by everything that asks, with a burst of 1/20 s. */
export interface Bucket {
  rate: number | undefined
  take(bytes: number): Promise<void>
}

export function createBucket(rate: number | undefined): Bucket {
  /** When the bucket will have paid for all that was taken, on performance.now(). */
  let paidAt = 0
  const bucket: Bucket = {
    rate,
    async take(bytes) {
      if (bucket.rate === undefined) return
      const now = performance.now()
      paidAt = Math.max(paidAt, now - 50) + (bytes / bucket.rate) * 1000
      if (paidAt > now) await sleep(paidAt - now, undefined, { ref: false })
    },
  }
  return bucket
}

/** Sends `bytes` as the body, under back-pressure, as the faults have it. `onBytes` hears what was handed to the socket. */
export async function sendBody(
  response: ServerResponse,
  bytes: Buffer,
  faults: Omit<Fault, 'path'>,
  bucket: Bucket,
  onBytes: (count: number) => void,
): Promise<void> {
  const stop = Math.min(faults.truncate ?? bytes.length, faults.stall ?? bytes.length, bytes.length)
  let at = 0
  while (at < stop && !response.destroyed) {
    const end = Math.min(stop, at + (bucket.rate === undefined ? 256 * 1024 : 16 * 1024))
    let part = bytes.subarray(at, end)
    if (faults.corrupt !== undefined && faults.corrupt >= at && faults.corrupt < end) {
      part = Buffer.from(part)
      part[faults.corrupt - at] = (part[faults.corrupt - at] ?? 0) ^ 0xff
    }
    await bucket.take(part.length)
    if (response.destroyed) return
    onBytes(part.length)
    if (!response.write(part)) await drained(response)
    at = end
  }
  if (response.destroyed) return
  if (faults.stall !== undefined && stop < bytes.length) return
  if (faults.truncate !== undefined && stop < bytes.length) {
    // Closing at once would drop what the socket still holds.
    response.socket?.end()
    return
  }
  response.end()
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done)
      response.off('close', done)
      resolve()
    }
    response.on('drain', done)
    response.on('close', done)
  })
}
