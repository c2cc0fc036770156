import { type Digest, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager, OpenBlob, Origin, StoredBlob } from '../../manager/index.ts'
import type { Handlers } from './crew.ts'
import type { Spool } from './spool.ts'

/** Gives a job the blobs that it asks for, by ordinary tasks. */
export interface Blobs {
  handlers: Handlers
  /** Bytes that came from elsewhere. */
  fetched(): number
  close(): void
}

/** @param origin absent: only what is here */
export function createBlobs(deps: {
  manager: Pick<Manager, 'open' | 'holds'>
  store: Pick<BlockStore, 'blob'>
  origin?: (blob: StoredBlob) => Origin
  spool: Spool
  /** Called with each blob that the job counts on, before it is looked at. */
  onUse?: (digest: Digest) => void
  signal: AbortSignal
}): Blobs {
  const { manager, store, origin, spool, onUse = () => {}, signal } = deps
  const fetches = new Map<Digest, Promise<number>>()
  const open = new Map<Digest, OpenBlob>()
  const streams = new Map<number, AsyncIterator<Uint8Array>>()
  let closed = false

  async function fetch({ digest, size }: { digest: Digest; size?: number }): Promise<number> {
    onUse(digest)
    if (!origin && !(await manager.holds(digest))) throw new ShoalError('NOT_FOUND', `${digest} is not here`)
    const expected = size ?? (await store.blob(digest))?.size
    const blob = await manager.open({
      digest,
      origin: origin?.({ digest, size: expected ?? 0 }) ?? nowhere,
      ...(expected === undefined ? {} : { size: expected }),
      priority: 'client',
      signal,
    })
    if (closed) blob.close()
    open.set(digest, blob)
    // A file must not get a byte of which the whole blob's digest was not checked.
    await Promise.race([blob.done, aborted(signal)])
    if (blob.size === undefined) throw new ShoalError('INTERNAL', `${digest} has no size`)
    return blob.size
  }

  async function pull(request: {
    stream: number
    digest: Digest
    start: number
    end: number
    /** Where in the spool the next chunk goes. */
    at: number
  }): Promise<number> {
    let stream = streams.get(request.stream)
    if (!stream) {
      const blob = open.get(request.digest)
      if (!blob) throw new ShoalError('INTERNAL', `${request.digest} was not fetched`)
      stream = blob.read({ start: request.start, end: request.end }, signal)[Symbol.asyncIterator]()
      streams.set(request.stream, stream)
    }
    const { value, done } = await stream.next()
    if (done) return 0
    await spool.put(value, request.at)
    return value.length
  }

  /** A part of one block: nothing is read ahead for it, and no memory is held between two of them. */
  async function load(part: { digest: Digest; start: number; end: number; at: number }): Promise<void> {
    const { digest, start, end } = part
    const blob = open.get(digest)
    if (!blob) throw new ShoalError('INTERNAL', `${digest} was not fetched`)
    let at = part.at
    for await (const bytes of blob.read({ start, end }, signal)) {
      await spool.put(bytes, at)
      at += bytes.length
    }
    if (at !== part.at + end - start) throw new ShoalError('INTERNAL', `${digest} ended early`)
  }

  return {
    handlers: {
      load,
      fetch(blob: { digest: Digest; size?: number }) {
        const known = fetches.get(blob.digest) ?? fetch(blob)
        fetches.set(blob.digest, known)
        return known
      },
      pull,
      async here({ digests }: { digests: Digest[] }) {
        for (const digest of digests) onUse(digest)
        const held = await Promise.all(digests.map((digest) => manager.holds(digest)))
        return held.every((isHere) => isHere)
      },
      async drop({ stream }: { stream: number }) {
        await streams.get(stream)?.return?.()
        streams.delete(stream)
      },
    },
    fetched() {
      let sum = 0
      for (const blob of open.values()) sum += blob.sources().peers + blob.sources().upstream
      return sum
    },
    close() {
      closed = true
      for (const stream of streams.values()) stream.return?.()?.catch(() => {})
      for (const blob of open.values()) blob.close()
    },
  }
}

const nowhere: Origin = {
  label: 'here',
  async fetch() {
    throw new ShoalError('NOT_FOUND', 'it is only looked for here')
  },
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
