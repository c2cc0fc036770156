import { digestOf, hasherFor, ShoalError, silentLog } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { createIngest } from '../../manager/tasks/index.ts'
import type { Hints, Manager, Member, OpenBlob, Sources, StoredImage } from '../../manager/types.ts'
import { createRecordsTwin } from '../manager/records-twin.ts'

type Digest = Parameters<Manager['open']>[0]['digest']

/** What the nodes of a pretended site share. */
export interface StandInSite {
  records: ReturnType<typeof createRecordsTwin>
  hints: Map<string, { value: unknown; at: number; from: string }>
  nodes: Set<StandIn>
  /** What the site's records say. */
  stored: StoredImage[]
}

/** A manager without a network: what it has not, other stand-ins of the site or the origin give. */
export interface StandIn extends Manager {
  readonly contents: Map<Digest, Buffer>
  /** Digests and priorities of all openings so far. */
  readonly opened: { digest: Digest; priority: string }[]
  /** Openings that were not closed. */
  openings(): number
  /** Reads that began and did not end. */
  reads(): number
}

interface Fetching {
  chunks: Buffer[]
  size: number | undefined
  mediaType: string | undefined
  here: number
  from: 'peers' | 'upstream'
  ended: boolean
  error: unknown
  wake: Set<() => void>
  started: Promise<void>
  done: Promise<void>
  stop: AbortController
  users: number
}

function standInStoring(stored: readonly StoredImage[]): Manager['storing'] {
  return {
    store: async () => {},
    forget: async () => false,
    find: async (name) => stored.find((image) => image.name === name),
    ofRepository: async (label) => stored.filter(({ name }) => name.startsWith(`${label}:`)),
    list: async () => [],
    repair: async () => ({ copied: 0, bytes: 0, lost: 0 }),
    close: async () => {},
  }
}

export function createSite(): StandInSite {
  return { records: createRecordsTwin(), hints: new Map(), nodes: new Set(), stored: [] }
}

/** For tests of the proxy alone; chunks are overwritten once the next is asked for, as the contract allows. */
export function createStandIn(options: { id: string; store: BlockStore; site?: StandInSite }): StandIn {
  const { id, store, site = createSite() } = options
  const contents = new Map<Digest, Buffer>()
  const types = new Map<Digest, string>()
  const fetching = new Map<Digest, Fetching>()
  const opened: StandIn['opened'] = []
  let openings = 0
  let reads = 0
  const self: Member = { id, name: id, site: 'test', addrs: [], state: 'alive', incarnation: 0 }

  const hints: Hints = {
    publish: (key, value) => void site.hints.set(key, { value, at: Date.now(), from: id }),
    lookup: async (key) => {
      const hint = site.hints.get(key)
      return hint ? [hint] : []
    },
  }

  function begin(request: Parameters<Manager['open']>[0]): Fetching {
    const { digest, origin } = request
    const neighbour = [...site.nodes].find((node) => node !== standIn && node.contents.has(digest))
    const entry: Fetching = {
      chunks: [],
      size: undefined,
      mediaType: request.mediaType,
      here: 0,
      from: neighbour ? 'peers' : 'upstream',
      ended: false,
      error: undefined,
      wake: new Set(),
      started: Promise.resolve(),
      done: Promise.resolve(),
      stop: new AbortController(),
      users: 0,
    }
    const wakeAll = (): void => {
      for (const wake of entry.wake) wake()
      entry.wake.clear()
    }
    let begun = (): void => {}
    const work = async (): Promise<void> => {
      const source = neighbour
        ? {
            size: neighbour.contents.get(digest)?.length,
            mediaType: undefined,
            body: chunksOf(neighbour.contents.get(digest)),
          }
        : await origin.fetch({ start: 0, end: undefined }, entry.stop.signal)
      entry.size = source.size
      entry.mediaType ??= source.mediaType
      begun()
      const hasher = hasherFor(digest)
      let held: Buffer | undefined
      for await (const chunk of source.body) {
        hasher.update(chunk)
        // The last chunk is kept back until everything was verified.
        if (held) push(held)
        held = Buffer.from(chunk)
      }
      if (`${digest.slice(0, digest.indexOf(':'))}:${hasher.digest('hex')}` !== digest) {
        throw new ShoalError('DIGEST_MISMATCH', `other bytes than ${digest}`)
      }
      const whole = Buffer.concat(held ? [...entry.chunks, held] : entry.chunks)
      for (let offset = 0; offset < whole.length; offset += BLOCK_SIZE) {
        await store.putSegment(digest, { offset }, whole.subarray(offset, offset + BLOCK_SIZE))
      }
      const mediaType = entry.mediaType
      await store.describe(digest, { size: whole.length, ...(mediaType === undefined ? {} : { mediaType }) })
      await store.markComplete(digest)
      if (mediaType !== undefined) types.set(digest, mediaType)
      contents.set(digest, whole)
      if (held) push(held)
    }
    const push = (chunk: Buffer): void => {
      entry.chunks.push(chunk)
      entry.here += chunk.length
      wakeAll()
    }
    entry.done = work()
      .catch((error: unknown) => {
        entry.error = error
        throw error
      })
      .finally(() => {
        entry.ended = true
        fetching.delete(digest)
        wakeAll()
      })
    entry.started = Promise.race([
      entry.done,
      new Promise<void>((resolve) => {
        begun = resolve
      }),
    ])
    entry.done.catch(() => {})
    fetching.set(digest, entry)
    return entry
  }

  async function open(request: Parameters<Manager['open']>[0]): Promise<OpenBlob> {
    const { digest, signal } = request
    signal.throwIfAborted()
    opened.push({ digest, priority: request.priority })
    const whole = contents.get(digest)
    const entry = whole ? undefined : (fetching.get(digest) ?? begin(request))
    if (entry) {
      entry.users++
      await entry.started
    }
    openings++
    const sources: Sources = { local: whole?.length ?? 0, peers: 0, upstream: 0 }
    let closed = false
    return {
      digest,
      get size() {
        return whole?.length ?? entry?.size
      },
      get mediaType() {
        return entry?.mediaType ?? types.get(digest)
      },
      read: (range, readSignal) => read(whole, entry, range, readSignal),
      sources: () => (entry ? { ...sources, [entry.from]: entry.here } : sources),
      done: entry?.done ?? Promise.resolve(),
      close() {
        if (closed) return
        closed = true
        openings--
        if (entry && --entry.users === 0 && !entry.ended) entry.stop.abort()
      },
    }
  }

  async function* read(
    whole: Buffer | undefined,
    entry: Fetching | undefined,
    range: { start: number; end: number | undefined },
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    const end = range.end ?? Number.POSITIVE_INFINITY
    const scratch = Buffer.alloc(64 * 1024)
    let at = 0
    reads++
    try {
      const all = whole ? [whole] : (entry?.chunks ?? [])
      for (let i = 0; ; i++) {
        while (i >= all.length) {
          if (entry?.error) throw entry.error
          if (!entry || entry.ended) return
          await new Promise<void>((resolve, reject) => {
            entry.wake.add(resolve)
            signal.addEventListener('abort', () => reject(signal.reason), { once: true })
          })
        }
        const chunk = all[i] ?? Buffer.alloc(0)
        const part = chunk.subarray(Math.max(0, range.start - at), Math.max(0, end - at))
        at += chunk.length
        for (let offset = 0; offset < part.length; offset += scratch.length) {
          if (signal.aborted) throw new ShoalError('ABORTED', 'given up')
          const length = part.copy(scratch, 0, offset, offset + scratch.length)
          yield scratch.subarray(0, length)
          scratch.fill(0)
        }
        if (at >= end) return
      }
    } finally {
      reads--
    }
  }

  const ingest = createIngest({
    store,
    signer: { id, sign: () => new Uint8Array(64), verify: () => true },
    announcer: { complete: () => {} },
    log: silentLog(),
  })

  const standIn: StandIn = {
    self,
    identity: {
      sign: () => new Uint8Array(64),
      verify: () => true,
      seal: () => new Uint8Array(0),
      open: () => undefined,
    },
    async ingest(blob) {
      const parts: Buffer[] = []
      async function* noting(): AsyncGenerator<Uint8Array> {
        for await (const chunk of blob.chunks()) {
          parts.push(Buffer.from(chunk))
          yield chunk
        }
      }
      const fresh = await ingest({ ...blob, chunks: noting })
      if (fresh) contents.set(blob.digest, Buffer.concat(parts))
      if (fresh && blob.mediaType !== undefined) types.set(blob.digest, blob.mediaType)
      return fresh
    },
    elsewhere: () => ({
      label: 'elsewhere',
      fetch: async () => {
        throw new ShoalError('UPSTREAM_UNREACHABLE', 'no other site has it')
      },
    }),
    members: {
      self,
      list: () => [self],
      site: () => [self],
      find: () => self,
      onChange: () => () => {},
      doubt: () => {},
      settled: Promise.resolve(),
    },
    rpc: { request: async () => undefined, notify: () => {}, handle: () => {} },
    hints,
    records: site.records.join(id),
    storing: standInStoring(site.stored),
    open,
    holds: async (digest) => contents.has(digest),
    borrow: async () => false,
    giveBack: async () => {},
    tasks: () => [],
    peers: () => [],
    totals: () => ({ peersIn: 0, peersOut: 0, upstream: 0, local: 0 }),
    onEvent: () => () => {},
    close: async () => {},
    contents,
    opened,
    openings: () => openings,
    reads: () => reads,
  }
  site.nodes.add(standIn)
  return standIn
}

async function* chunksOf(bytes: Buffer = Buffer.alloc(0)): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += 64 * 1024) yield bytes.subarray(at, at + 64 * 1024)
}

/** Puts bytes into a stand-in's store, as if it had fetched them before. */
export function fill(standIn: StandIn, bytes: Buffer): Digest {
  const digest = digestOf(bytes)
  standIn.contents.set(digest, bytes)
  return digest
}
