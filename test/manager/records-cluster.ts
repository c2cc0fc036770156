/** Nodes with shared records in one process: tables in memory that outlive a restart, links that can be cut, clocks that can be wrong. */
import { ShoalError, silentLog } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { createSharedRecords } from '../../manager/records/index.ts'
import type { PackedRow } from '../../manager/records/row.ts'
import type { Member, PeerId, Rpc, RpcHandler, SharedRecords } from '../../manager/types.ts'
import { encodeFrame } from '../../manager/wire/codec.ts'

export interface RecordsNode {
  id: PeerId
  records: SharedRecords
  /** What is on its disk, by key. */
  rows: Map<string, PackedRow>
  handlers: Map<string, RpcHandler>
  /** ms that its clock is off. */
  skewMs: number
}

export interface RecordsCluster {
  nodes: RecordsNode[]
  /** The longest frame so far, bytes. */
  longest: number
  messages: number
  /** Of nodes that start from now on. */
  choresMs: number
  /** ms that a message takes, asked for each. */
  latencyMs: () => number
  /** Called before a row of a node changes. */
  onWrite: (node: PeerId, key: string, before: PackedRow | undefined, after: PackedRow) => void
  /** ms since the epoch, for all nodes. */
  now: () => number
  add(id: PeerId): RecordsNode
  /** The index of each node's part; none: whole again. */
  partition(parts?: number[]): void
  /** Says goodbye, or is gone without a word. */
  stop(node: RecordsNode, how: 'left' | 'dead'): Promise<void>
  /** As after kill -9: what is on disk stays. */
  restart(node: RecordsNode): Promise<void>
  /** Resolves when all nodes that run have the same rows. */
  equal(): Promise<void>
  close(): Promise<void>
}

export function memoryStore(
  tables: Map<string, Map<string, string>>,
  onPut: (name: string, key: string, value: unknown) => void = () => {},
) {
  return {
    records(name: string) {
      const table = tables.get(name) ?? new Map<string, string>()
      tables.set(name, table)
      return {
        async get(key: string) {
          const text = table.get(key)
          return text === undefined ? undefined : JSON.parse(text)
        },
        async put(key: string, value: unknown) {
          await Promise.resolve()
          onPut(name, key, value)
          table.set(key, JSON.stringify(value))
        },
        delete: async (key: string) => void table.delete(key),
        async *entries(prefix = '') {
          for (const key of [...table.keys()].sort()) {
            if (key.startsWith(prefix)) yield [key, JSON.parse(table.get(key)!)]
          }
        },
      }
    },
  } as unknown as BlockStore
}

export function createRecordsCluster(): RecordsCluster {
  const disks = new Map<PeerId, Map<string, Map<string, string>>>()
  const states = new Map<PeerId, 'alive' | 'left' | 'dead'>()
  const listeners = new Map<PeerId, Set<() => void>>()
  const parts = new Map<PeerId, number>()

  const connected = (a: PeerId, b: PeerId): boolean =>
    states.get(a) === 'alive' && states.get(b) === 'alive' && parts.get(a) === parts.get(b)
  const changed = (): void => {
    for (const set of listeners.values()) for (const listener of set) listener()
  }

  function rpcOf(self: PeerId, handlers: Map<string, RpcHandler>): Rpc {
    const travel = async (from: PeerId, to: PeerId, content: unknown): Promise<unknown> => {
      cluster.messages++
      cluster.longest = Math.max(cluster.longest, encodeFrame(content ?? null).length)
      const ms = cluster.latencyMs()
      if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms))
      if (!connected(from, to)) throw new ShoalError('PEER_GONE', `${to} is gone`)
      return structuredClone(content)
    }
    return {
      request(peer, method, body, { signal }) {
        const work = async (): Promise<unknown> => {
          const asked = await travel(self, peer, body)
          const handler = cluster.nodes.find(({ id }) => id === peer)?.handlers.get(method)
          if (!handler) throw new ShoalError('PEER_GONE', `${peer} is gone`)
          return travel(peer, self, await handler(self, asked, new AbortController().signal))
        }
        const { promise, resolve, reject } = Promise.withResolvers<unknown>()
        signal?.addEventListener('abort', () => reject(signal.reason), { once: true })
        work().then(resolve, reject)
        return promise
      },
      notify: () => {},
      handle: (method, handler) => void handlers.set(method, handler),
    }
  }

  function start(node: RecordsNode): void {
    const { id } = node
    node.handlers = new Map()
    const list = (): Member[] =>
      [...states].map(([peer, state]) => ({
        id: peer,
        name: peer,
        site: 'test',
        addrs: [],
        state: state === 'left' || peer === id || connected(id, peer) ? state : 'dead',
        incarnation: 0,
      }))
    listeners.set(id, new Set())
    states.set(id, 'alive')
    const self = list().find((member) => member.id === id)!
    node.records = createSharedRecords({
      members: {
        self,
        list,
        site: list,
        find: (name) => list().find((member) => member.id === name),
        onChange(listener) {
          listeners.get(id)!.add(listener)
          return () => listeners.get(id)!.delete(listener)
        },
        doubt: () => {},
        settled: Promise.resolve(),
      },
      rpc: rpcOf(id, node.handlers),
      store: memoryStore(disks.get(id)!, (name, key, value) => {
        if (name !== 'shared') return
        cluster.onWrite(id, key, node.rows.get(key), value as PackedRow)
        node.rows.set(key, structuredClone(value as PackedRow))
      }),
      log: silentLog(),
      now: () => cluster.now() + node.skewMs,
      timing: { settleMs: 0, retryMs: 5, everyMs: 20, choresMs: cluster.choresMs },
    })
    changed()
  }

  const cluster: RecordsCluster = {
    nodes: [],
    longest: 0,
    messages: 0,
    choresMs: 3600_000,
    latencyMs: () => 0,
    onWrite: () => {},
    now: Date.now,
    add(id) {
      disks.set(id, new Map())
      const node = { id, rows: new Map(), handlers: new Map(), skewMs: 0 } as unknown as RecordsNode
      cluster.nodes.push(node)
      start(node)
      return node
    },
    partition(groups) {
      parts.clear()
      for (const [i, part] of (groups ?? []).entries()) {
        const node = cluster.nodes[i]
        if (node) parts.set(node.id, part)
      }
      changed()
    },
    async stop(node, how) {
      states.set(node.id, how)
      cluster.nodes.splice(cluster.nodes.indexOf(node), 1)
      changed()
      await node.records.close()
    },
    async restart(node) {
      states.set(node.id, 'dead')
      changed()
      await node.records.close()
      start(node)
    },
    async equal() {
      const dump = (node: RecordsNode): string =>
        JSON.stringify([...node.rows].sort(([a], [b]) => (a < b ? -1 : 1)))
      for (const end = performance.now() + 60_000; performance.now() < end; ) {
        if (new Set(cluster.nodes.map(dump)).size <= 1) return
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      throw new Error(
        `still different:\n${cluster.nodes.map((node) => `${node.id} ${dump(node)}`).join('\n')}`,
      )
    },
    async close() {
      await Promise.all(cluster.nodes.map((node) => node.records.close()))
    },
  }
  return cluster
}
