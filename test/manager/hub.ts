import { ShoalError } from '../../base/index.ts'
import type { Links } from '../../manager/network/index.ts'
import type { PeerId, Rpc, RpcHandler } from '../../manager/types.ts'
import { createVirtualClock, type VirtualClock } from './clock.ts'

/** A network in memory under virtual time: nodes with links and an RPC, and ways to break what is between them. */
export interface Hub {
  clock: VirtualClock
  /** Same seed, same run. */
  random(): number
  join(id: PeerId): HubNode
  /** Messages delivered so far. */
  readonly messages: number
  /** Share of messages that get lost without a trace, 0 … 1. */
  loss: number
  /** One way, ms. */
  latencyMs: number
  /** Splits the network: only nodes of one group reach each other, silently. No groups: whole again. */
  partition(...groups: PeerId[][]): void
}

export interface HubNode {
  id: PeerId
  /** Where others dial it. */
  address: string
  rpc: Rpc
  links: Links
  /** Timers that stand still while the node hangs. */
  timers: { setTimeout(callback: () => void, ms: number): unknown; clearTimeout(handle: unknown): void }
  /** kill -9: its connections end at once, dials are refused. */
  kill(): void
  /** Its process does nothing for so long; what arrives waits. */
  hang(ms: number): void
  readonly alive: boolean
}

interface State extends HubNode {
  handlers: Map<string, RpcHandler>
  peers: Map<PeerId, { heardAt: number; connected: boolean }>
  closed: Set<(id: PeerId) => void>
  busyUntil: number
  dead: boolean
}

export function createHub(options: { seed?: number } = {}): Hub {
  const clock = createVirtualClock()
  const nodes = new Map<PeerId, State>()
  const groups = new Map<PeerId, number>()
  let seed = options.seed ?? 1
  let messages = 0

  const random = (): number => {
    // mulberry32
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  const passes = (from: PeerId, to: PeerId): boolean =>
    groups.get(from) === groups.get(to) && random() >= hub.loss

  /** Runs `action` at the receiver, if it gets there, and once it is not hanging. */
  const deliver = (from: State, to: State, action: () => void): void => {
    if (from.dead || !passes(from.id, to.id)) return
    const arrive = (): void => {
      if (to.dead) return
      const wait = to.busyUntil - clock.now()
      if (wait > 0) {
        clock.setTimeout(arrive, wait)
        return
      }
      messages++
      link(to, from.id).heardAt = clock.now()
      action()
    }
    clock.setTimeout(arrive, hub.latencyMs)
  }

  const link = (node: State, peer: PeerId): { heardAt: number; connected: boolean } => {
    const known = node.peers.get(peer)
    if (known !== undefined) return known
    const made = { heardAt: Number.NEGATIVE_INFINITY, connected: false }
    node.peers.set(peer, made)
    return made
  }

  const disconnect = (node: State, peer: PeerId): void => {
    const side = node.peers.get(peer)
    if (side?.connected !== true) return
    side.connected = false
    for (const listener of [...node.closed]) listener(peer)
  }

  /**
   * The other machine's kernel answers, even while its process hangs; across a cut nobody does, and the dialer's kernel
   * tries again after 1 and 3 s.
   */
  const dial = (from: State, to: State | undefined, signal: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      let done = false
      const gone = (): void => {
        done = true
        reject(new ShoalError('PEER_GONE', 'no connection'))
      }
      signal.addEventListener('abort', gone)
      const knock = (): void => {
        if (done || to === undefined || groups.get(from.id) !== groups.get(to.id)) return
        if (to.dead) {
          gone()
          return
        }
        deliver(from, to, () =>
          deliver(to, from, () => {
            if (done) return
            done = true
            link(from, to.id).connected = true
            link(to, from.id).connected = true
            resolve()
          }),
        )
      }
      for (const ms of [0, 1000, 3000]) clock.setTimeout(knock, ms)
    })

  const request = (from: State, to: State | undefined, method: string, body: unknown, timeoutMs: number) =>
    new Promise<unknown>((resolve, reject) => {
      if (to === undefined || !link(from, to.id).connected)
        return reject(new ShoalError('PEER_GONE', 'not connected'))
      const give = clock.setTimeout(() => reject(new ShoalError('TIMEOUT', 'no answer')), timeoutMs)
      const finish = (settle: () => void): void => {
        clock.clearTimeout(give)
        settle()
      }
      deliver(from, to, () => {
        const handler = to.handlers.get(method)
        if (handler === undefined) return
        handler(from.id, structuredClone(body), new AbortController().signal).then(
          (answer) => deliver(to, from, () => finish(() => resolve(structuredClone(answer)))),
          (error) => deliver(to, from, () => finish(() => reject(error))),
        )
      })
    })

  const join = (id: PeerId): HubNode => {
    const address = `/memory/${id}`
    const find = (peer: PeerId): State | undefined => nodes.get(peer)
    const node: State = {
      id,
      address,
      handlers: new Map(),
      peers: new Map(),
      closed: new Set(),
      busyUntil: 0,
      dead: false,
      get alive() {
        return !node.dead
      },
      rpc: {
        request: (peer, method, body, { timeoutMs }) => request(node, find(peer), method, body, timeoutMs),
        notify(peer, method, body) {
          request(node, find(peer), method, body, 1000).catch(() => {})
        },
        handle: (method, handler) => void node.handlers.set(method, handler),
      },
      links: {
        connected: (peer) => node.peers.get(peer)?.connected === true,
        async connect({ peer, addrs }, signal) {
          const target = addrs
            .map((addr) => find(addr.slice('/memory/'.length)))
            .find((found) => found !== undefined)
          if (target?.id === id) throw new ShoalError('LOOP', 'that is this node')
          if (target !== undefined && link(node, target.id).connected) return target.id
          await dial(node, target, signal)
          if (target === undefined || (peer !== undefined && peer !== target.id)) {
            throw new ShoalError('PEER_GONE', 'somebody else')
          }
          return target.id
        },
        remember: () => {},
        forget: () => {},
        drop(peer) {
          disconnect(node, peer)
          const other = find(peer)
          if (other !== undefined) deliver(node, other, () => disconnect(other, id))
        },
        heardAt: (peer) => node.peers.get(peer)?.heardAt ?? Number.NEGATIVE_INFINITY,
        onClose(listener) {
          node.closed.add(listener)
          return () => void node.closed.delete(listener)
        },
      },
      timers: {
        setTimeout(callback, ms) {
          const run = (): void => {
            if (node.dead) return
            const wait = node.busyUntil - clock.now()
            if (wait > 0) clock.setTimeout(run, wait)
            else callback()
          }
          return clock.setTimeout(run, ms)
        },
        clearTimeout: (handle) => clock.clearTimeout(handle),
      },
      kill() {
        node.dead = true
        for (const other of nodes.values()) {
          if (groups.get(other.id) === groups.get(id)) {
            clock.setTimeout(() => !other.dead && disconnect(other, id), hub.latencyMs)
          }
        }
      },
      hang(ms) {
        node.busyUntil = clock.now() + ms
      },
    }
    nodes.set(id, node)
    return node
  }

  const hub: Hub = {
    clock,
    random,
    join,
    get messages() {
      return messages
    },
    loss: 0,
    latencyMs: 1,
    partition(...parts) {
      groups.clear()
      for (const [index, part] of parts.entries()) for (const id of part) groups.set(id, index + 1)
    },
  }
  return hub
}
