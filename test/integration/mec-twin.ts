import { randomUUID } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import { ShoalError } from '../../base/index.ts'
import type { App, AppMoved, AppSpec, Offload, PodStatus } from '../../integration/offload/types.ts'
import type { Member, Membership, PeerId, Rpc, RpcHandler } from '../../manager/types.ts'

/** Offload without containers: applications run when they are asked to, a tick later, and do what a test makes them do. */
export interface OffloadTwin extends Offload {
  apps: Map<string, App>
  /** Nodes with room; nothing fits where there is none. */
  room: PeerId[]
  /** Applications that do not come to run, and why. */
  failing: string | undefined
  /** How long (ms) an application takes to run, and to go. */
  startMs: number
  deleteMs: number
  moves: { owner: string; entry: PeerId; apps: string[] }[]
  move(id: string, pod: string, to: PeerId, status: AppMoved['status']): void
  /** Its time is over, say. */
  end(id: string): Promise<void>
  calls: { register: number; offload: number; delete: number }
}

export function createOffloadTwin(members: Membership): OffloadTwin {
  const apps = new Map<string, App>()
  const listeners = new Set<(app: App) => void>()
  const moveListeners = new Set<(moved: AppMoved) => void>()
  let port = 30_000

  const copy = (app: App): App => structuredClone(app)
  const tell = (app: App): void => {
    for (const listener of listeners) listener(copy(app))
  }
  const pending = (spec: AppSpec): PodStatus[] =>
    spec.pods.map(({ name }) => ({
      name,
      state: 'pending',
      node: undefined,
      peer: undefined,
      referenceURI: undefined,
      startedMs: undefined,
      reason: undefined,
    }))
  const place = (pod: PodStatus, peer: PeerId, spec: AppSpec): void => {
    pod.peer = peer
    pod.node = members.find(peer)?.name
    const index = members.list().findIndex(({ id }) => id === peer)
    const ports = spec.pods.find(({ name }) => name === pod.name)?.ports ?? []
    pod.referenceURI = ports.length > 0 ? `http://10.0.0.${index + 1}:${port++}` : undefined
  }

  const twin: OffloadTwin = {
    apps,
    room: members.list().map(({ id }) => id),
    failing: undefined,
    startMs: 1,
    deleteMs: 1,
    moves: [],
    calls: { register: 0, offload: 0, delete: 0 },
    async register(owner, spec, { id = randomUUID().replaceAll('-', '') } = {}) {
      twin.calls.register++
      const known = apps.get(id)
      if (known) return copy(known)
      const app: App = {
        id,
        owner,
        spec,
        state: 'copying',
        pods: pending(spec),
        reasons: [],
        createdAt: Date.now(),
      }
      apps.set(id, app)
      tell(app)
      return copy(app)
    },
    async offload(owner, id, { within }) {
      twin.calls.offload++
      const app = apps.get(id)
      if (app?.owner !== owner) throw new ShoalError('NOT_FOUND', 'no such application')
      if (app.state === 'starting' || app.state === 'running') return copy(app)
      const nodes = twin.room.filter((node) => within === undefined || within.includes(node))
      const node = nodes[0]
      if (!node) throw new ShoalError('UNFIT', 'nothing fits: no node has room')
      app.state = 'starting'
      app.reasons = [`${node}: has room`]
      tell(app)
      void wait(twin.startMs, undefined, { ref: false }).then(() => {
        if (apps.get(id)?.state !== 'starting') return
        app.state = twin.failing === undefined ? 'running' : 'failed'
        for (const pod of app.pods) {
          if (twin.failing !== undefined) Object.assign(pod, { state: 'failed', reason: twin.failing })
          else {
            place(pod, node, app.spec)
            Object.assign(pod, { state: 'running', startedMs: twin.startMs })
          }
        }
        tell(app)
      })
      return copy(app)
    },
    get: async (owner, id) => {
      const app = apps.get(id)
      return app?.owner === owner ? copy(app) : undefined
    },
    list: async (owner) => [...apps.values()].filter((app) => app.owner === owner).map(copy),
    async delete(owner, id) {
      twin.calls.delete++
      const app = apps.get(id)
      if (app?.owner !== owner) return false
      app.state = 'deleting'
      tell(app)
      await wait(twin.deleteMs)
      return apps.delete(id)
    },
    async available(_spec, { within }) {
      const nodes = twin.room.filter((node) => within === undefined || within.includes(node))
      return { fits: nodes.length > 0, reasons: [], nodes }
    },
    async moved(owner, entry, follows = () => true) {
      const mine = [...apps.values()].filter((app) => app.owner === owner && follows(copy(app)))
      twin.moves.push({ owner, entry, apps: mine.map(({ id }) => id) })
    },
    move(id, name, to, status) {
      const app = apps.get(id)!
      const pod = app.pods.find((one) => one.name === name)!
      const from = pod.peer!
      if (status === 'moved') place(pod, to, app.spec)
      const { referenceURI } = pod
      for (const listener of moveListeners) {
        listener({ app: copy(app), pod: name, from, to, status, referenceURI })
      }
      if (status === 'moved') tell(app)
    },
    async end(id) {
      const app = apps.get(id)!
      app.state = 'deleting'
      tell(app)
      await wait(twin.deleteMs)
      apps.delete(id)
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    onMoved(listener) {
      moveListeners.add(listener)
      return () => moveListeners.delete(listener)
    },
    close: async () => {},
  }
  return twin
}

export function createMembersTwin(all: Member[], self: PeerId): Membership {
  return {
    self: all.find(({ id }) => id === self)!,
    list: () => all,
    site: () => all,
    find: (nameOrId) => all.find(({ id, name }) => id === nameOrId || name === nameOrId),
    onChange: () => () => {},
    doubt: () => {},
    settled: Promise.resolve(),
  }
}

/** Requests between nodes of one process. */
export function createRpcTwin() {
  const nodes = new Map<PeerId, Map<string, RpcHandler>>()
  const dead = new Set<PeerId>()
  const twin = {
    dead,
    join(self: PeerId): Rpc {
      const handlers = new Map<string, RpcHandler>()
      nodes.set(self, handlers)
      return {
        async request(peer, method, body, { signal = new AbortController().signal }) {
          const handler = dead.has(peer) ? undefined : nodes.get(peer)?.get(method)
          if (!handler) throw new ShoalError('PEER_GONE', `${peer} is gone`)
          return handler(self, body, signal)
        },
        notify(peer, method, body) {
          void Promise.resolve(
            nodes.get(peer)?.get(method)?.(self, body, new AbortController().signal),
          ).catch(() => {})
        },
        handle: (method, handler) => void handlers.set(method, handler),
      }
    },
  }
  return twin
}
