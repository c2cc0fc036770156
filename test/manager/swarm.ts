/**
 * A site of managers in one process: real stores on disk, real tasks and ledgers, virtual links. What misbehaves
 * does so on purpose: a link can be cut, a node killed, a peer's blocks spoilt.
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Digest, digestOf, type Log, ShoalError, silentLog } from '../../base/index.ts'
import { type BlockStore, openBlockStore } from '../../blockstore/index.ts'
import { createManager } from '../../manager/manager.ts'
import { createIdentity } from '../../manager/network/identity.ts'
import type { Exchange, Manager, Member, Origin, PeerId, Rpc, RpcHandler } from '../../manager/types.ts'

export interface SwarmNode {
  id: PeerId
  manager: Manager
  store: BlockStore
  dir: string
  /** What this node's peers get instead of a block's true bytes; undefined: the truth. Set by tests. */
  spoil: ((bytes: Buffer) => Promise<Buffer>) | undefined
  stop(): Promise<void>
  /** ms until it answers a request. */
  lag: number
}

export interface SwarmNodeOptions {
  dir?: string
  quota?: number
  offer?: number
  leaveAfterMs?: number
  /** Default `test`. */
  site?: string
  mayReceive?: (bytes: number) => Promise<void>
}

export interface Upstream {
  blobs: Map<Digest, Buffer>
  /** Body bytes that crossed the uplink. */
  bytes: number
  up: boolean
  ranges: boolean
  sized: boolean
  /** Milliseconds between chunks of 64 KiB. */
  pace: number
  /** Changes what is sent, by the node that asks. */
  twist: ((node: PeerId, bytes: Buffer) => Buffer) | undefined
  add(size: number): Digest
  origin(node: PeerId, digest: Digest): Origin
}

export interface Swarm {
  upstream: Upstream
  nodes: SwarmNode[]
  add(options?: SwarmNodeOptions): Promise<SwarmNode>
  /** The node is gone at once, as after kill -9; `unnoticed`: it counts as a member until somebody doubts it. */
  kill(node: SwarmNode, options?: { unnoticed?: boolean }): Promise<void>
  cut(node: SwarmNode, isCut: boolean): void
  close(): Promise<void>
}

const CHUNK = 64 * 1024

export function createUpstream(): Upstream {
  const upstream: Upstream = {
    blobs: new Map(),
    bytes: 0,
    up: true,
    ranges: true,
    sized: true,
    pace: 0,
    twist: undefined,
    add(size) {
      const bytes = randomBytes(size)
      const digest = digestOf(bytes)
      upstream.blobs.set(digest, bytes)
      return digest
    },
    origin: (node, digest) => ({
      label: 'test/repo',
      async fetch(range, signal) {
        if (!upstream.up) throw new ShoalError('UPSTREAM_UNREACHABLE', 'the uplink is cut')
        const whole = upstream.blobs.get(digest)
        if (!whole) throw new ShoalError('NOT_FOUND', 'no such blob')
        const ranged = upstream.ranges
        const start = ranged ? range.start : 0
        const end = ranged ? Math.min(range.end ?? whole.length, whole.length) : whole.length
        async function* body(): AsyncGenerator<Uint8Array> {
          for (let at = start; at < end; at += CHUNK) {
            await new Promise((resolve) => setTimeout(resolve, upstream.pace))
            signal.throwIfAborted()
            if (!upstream.up) throw new ShoalError('UPSTREAM_UNREACHABLE', 'the uplink was cut')
            const chunk = whole!.subarray(at, Math.min(at + CHUNK, end))
            upstream.bytes += chunk.length
            yield upstream.twist ? upstream.twist(node, chunk) : chunk
          }
        }
        const size = upstream.sized ? whole.length : undefined
        return { start, size, ranged, mediaType: 'application/test', body: body() }
      },
    }),
  }
  return upstream
}

export async function createSwarm({ log = silentLog() }: { log?: Log } = {}): Promise<Swarm> {
  const root = await mkdtemp(join(tmpdir(), 'shoal-swarm-'))
  const upstream = createUpstream()
  const nodes: SwarmNode[] = []
  const handlers = new Map<PeerId, Map<string, RpcHandler>>()
  /** Nodes are called by numbers here, and not after their keys. */
  const peerIds = new Map<PeerId, PeerId>()
  const listeners = new Map<PeerId, Set<() => void>>()
  const absent = new Set<PeerId>()
  const places = new Map<PeerId, string>()
  /** Dead nodes that nobody has noticed yet. */
  const ghosts = new Set<PeerId>()
  let count = 0

  const reachable = (from: PeerId, to: PeerId): boolean =>
    handlers.has(to) && !absent.has(from) && !absent.has(to)
  const changed = (): void => {
    for (const set of listeners.values()) for (const listener of set) listener()
  }

  function rpcOf(self: PeerId): Rpc {
    async function request(
      peer: PeerId,
      method: string,
      body: unknown,
      { timeoutMs = Number.POSITIVE_INFINITY } = {},
    ): Promise<unknown> {
      const lag = nodes.find((node) => node.id === peer)?.lag ?? 1
      await new Promise((resolve) => setTimeout(resolve, Math.min(lag, timeoutMs)))
      if (lag > timeoutMs) throw new ShoalError('TIMEOUT', `${peer} is slow`)
      const handler = reachable(self, peer) && handlers.get(peer)?.get(method)
      if (!handler) throw new ShoalError('PEER_GONE', `${peer} is gone`)
      const reply = await handler(self, structuredClone(body), new AbortController().signal)
      if (!reachable(self, peer)) throw new ShoalError('PEER_GONE', `${peer} is gone`)
      return structuredClone(reply)
    }
    return {
      request,
      notify: (peer, method, body) => void request(peer, method, body).catch(() => {}),
      handle: (method, handler) => void handlers.get(self)?.set(method, handler),
    }
  }

  function exchangeOf(self: PeerId): Exchange {
    return {
      async fetch(peer, cid, { length, signal, stallMs, into, onBytes }) {
        await new Promise((resolve) => setTimeout(resolve, 1))
        signal.throwIfAborted()
        const given = Promise.withResolvers<never>()
        given.promise.catch(() => {})
        signal.addEventListener('abort', () => given.reject(signal.reason), { once: true })
        const stall = setTimeout(() => given.reject(new ShoalError('TIMEOUT', 'stalled')), stallMs)
        stall.unref()
        const node = nodes.find((n) => n.id === peer)
        if (!node || !reachable(self, peer)) throw new ShoalError('PEER_GONE', 'gone')
        let bytes = await node.store.read(cid).catch((error) => {
          throw new ShoalError('BLOCK_MISSING', String(error))
        })
        if (node.spoil) bytes = await Promise.race([node.spoil(Buffer.from(bytes)), given.promise])
        clearTimeout(stall)
        if (!reachable(self, peer)) throw new ShoalError('PEER_GONE', 'gone')
        signal.throwIfAborted()
        onBytes?.(bytes.length)
        if (!into) return bytes
        const target = into()
        bytes.copy(target)
        return target.subarray(0, length)
      },
      totals: () => ({ sent: 0, received: 0 }),
      close: async () => {},
    }
  }

  async function add({
    dir,
    quota,
    offer = 2 ** 30,
    leaveAfterMs = 600_000,
    site: place = 'test',
    mayReceive,
  }: SwarmNodeOptions = {}): Promise<SwarmNode> {
    const n = count++
    const id = `node${n}`
    const home = dir ?? join(root, id)
    const identity = createIdentity(generateKeyPairSync('ed25519').privateKey)
    peerIds.set(id, identity.peerId)
    handlers.set(id, new Map())
    listeners.set(id, new Set())
    const self: Member = { id, name: id, site: place, addrs: [], state: 'alive', incarnation: 0 }
    places.set(id, place)
    const list = (): Member[] =>
      [...handlers.keys(), ...ghosts]
        .filter((other) => other === id || ghosts.has(other) || reachable(id, other))
        .sort()
        .map((other) => ({ ...self, id: other, name: other, site: places.get(other) ?? place }))
    const site = (): Member[] => list().filter((member) => member.site === place)
    const store = await openBlockStore({ dir: home, log, ...(quota ? { quota } : {}) })
    const manager = createManager({
      members: {
        self,
        list,
        site,
        find: (name) => list().find((m) => m.id === name),
        onChange(listener) {
          listeners.get(id)?.add(listener)
          return () => listeners.get(id)?.delete(listener)
        },
        doubt(peer) {
          if (!ghosts.has(peer)) return
          setTimeout(() => {
            if (ghosts.delete(peer)) changed()
          }, 300)
        },
        settled: Promise.resolve(),
      },
      rpc: rpcOf(id),
      exchange: exchangeOf(id),
      signer: {
        ...identity,
        id,
        verify: (peer, bytes, signature) => identity.verify(peerIds.get(peer) ?? peer, bytes, signature),
        seal: (peer, plain, context) => identity.seal(peerIds.get(peer) ?? peer, plain, context),
      },
      store,
      isConnected: (peer) => reachable(id, peer),
      ...(mayReceive ? { mayReceive } : {}),
      storing: { offer, leaveAfterMs },
      log: log.child({ node: id }),
    })
    const node: SwarmNode = {
      id,
      manager,
      store,
      dir: home,
      spoil: undefined,
      lag: 1,
      async stop() {
        handlers.delete(id)
        changed()
        await manager.close()
        await store.close()
      },
    }
    nodes.push(node)
    changed()
    return node
  }

  return {
    upstream,
    nodes,
    add,
    async kill(node, { unnoticed = false } = {}) {
      handlers.delete(node.id)
      if (unnoticed) ghosts.add(node.id)
      nodes.splice(nodes.indexOf(node), 1)
      changed()
      await node.manager.close()
      await node.store.close()
    },
    cut(node, isCut) {
      if (isCut) absent.add(node.id)
      else absent.delete(node.id)
      changed()
    },
    async close() {
      await Promise.all(nodes.map((node) => node.stop()))
      // A helper that was just told to end may still make a directory.
      await rm(root, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
    },
  }
}

/** Pulls a blob as a client does: opens, reads all, checks the digest of what was read. */
export async function pull(
  swarm: Swarm,
  node: SwarmNode,
  digest: Digest,
  options: { signal?: AbortSignal; onBytes?: (total: number) => void | Promise<void> } = {},
): Promise<{ local: number; peers: number; upstream: number }> {
  const signal = options.signal ?? AbortSignal.timeout(120_000)
  const origin = swarm.upstream.origin(node.id, digest)
  const blob = await node.manager.open({ digest, origin, priority: 'client', signal })
  try {
    const parts: Buffer[] = []
    let total = 0
    for await (const chunk of blob.read({ start: 0, end: undefined }, signal)) {
      parts.push(Buffer.from(chunk))
      total += chunk.length
      await options.onBytes?.(total)
    }
    if (digestOf(Buffer.concat(parts)) !== digest) throw new Error('the client got wrong bytes')
    return blob.sources()
  } finally {
    blob.close()
  }
}
