import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Digest, digestOf, ShoalError, silentLog } from '../../base/index.ts'
import type { BlockStore, Records } from '../../blockstore/index.ts'
import {
  type ApiDeps,
  createApi,
  createLagMeter,
  createMetrics,
  createReadiness,
  type ImageInfo,
  type ImagePins,
  type LocalRepositoryInfo,
  nodeInstruments,
  type PullImage,
  type PullProgress,
  processInstruments,
} from '../../cli/api/index.ts'
import { type Collect, createStoreImage } from '../../cli/store-room.ts'
import type { Manager, ManagerEvent, Member, TaskStatus } from '../../manager/index.ts'
import { storedName } from '../../proxy/index.ts'
import { createRecordsTwin } from '../manager/records-twin.ts'
import { createStoringTwin } from '../manager/storing-twin.ts'
import { standInPlatform } from './platform-twin.ts'

export const TOKEN = 'a-token-for-tests'

export function member(name: string, state: Member['state'] = 'alive'): Member {
  return {
    id: `12D3KooW${name}`,
    name,
    site: 'default',
    addrs: ['/ip4/127.0.0.1/tcp/5082'],
    state,
    incarnation: 1,
  }
}

export function digest(seed: string): Digest {
  return digestOf(Buffer.from(seed))
}

export function task(seed: string, over: Partial<TaskStatus> = {}): TaskStatus {
  return {
    digest: digest(seed),
    label: 'docker.io/library/redis',
    size: 1000,
    bytesHere: 400,
    sources: { local: 0, peers: 300, upstream: 100 },
    coordinator: member('self').id,
    peers: 2,
    leases: 1,
    readers: 1,
    priority: 'client',
    startedAt: Date.now() - 1000,
    state: 'running',
    ...over,
  }
}

/** A manager that knows what it is told and can be made to speak: the network is not what these tests are about. */
export function standInManager(
  members: Member[] = [member('self'), member('other')],
  tasks: TaskStatus[] = [],
) {
  const listeners = new Set<(event: ManagerEvent) => void>()
  const self = members[0]!
  const twin = createStoringTwin()
  const manager = {
    self,
    members: {
      self,
      list: () => members,
      site: () => members,
      find: (nameOrId: string) => members.find(({ id, name }) => id === nameOrId || name === nameOrId),
      onChange: () => () => {},
      doubt: () => {},
      settled: Promise.resolve(),
    },
    records: createRecordsTwin(members.length).join(self.id),
    storing: twin.storing,
    tasks: () => tasks,
    peers: () =>
      members.slice(1).map((one) => ({
        member: one,
        connected: one.state === 'alive',
        rate: 1e6,
        latencyMs: 1.5,
        sent: 10,
        received: 20,
        shunned: false,
      })),
    totals: () => ({ peersIn: 300, peersOut: 50, upstream: 100, local: 25 }),
    onEvent: (listener: (event: ManagerEvent) => void) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close: async () => {},
  }
  return {
    manager: manager as unknown as Manager,
    twin,
    emit: (event: ManagerEvent) => {
      for (const listener of listeners) listener(event)
    },
    listeners,
  }
}

/** An image of a manifest and a layer. */
export const standInCollect: Collect = async ({ reference }) => ({
  name: storedName(reference),
  digest: digest('manifest'),
  blobs: [
    { digest: digest('manifest'), size: 10 },
    { digest: digest('layer'), size: 990 },
  ],
  anonymous: true,
  origin: () => {
    throw new Error('nothing is fetched here')
  },
})

export function standInStore(): BlockStore {
  const tables = new Map<string, Map<string, unknown>>()
  return {
    records: <T>(name: string): Records<T> => {
      const table = (tables.get(name) ?? new Map<string, unknown>()) as Map<string, T>
      tables.set(name, table)
      return {
        get: async (key: string) => table.get(key),
        put: async (key: string, value: T) => void table.set(key, value),
        delete: async (key: string) => void table.delete(key),
        entries: async function* () {
          yield* table
        },
      }
    },
    usage: () => ({ bytes: 4096, blocks: 3, borrowed: 8192, quota: 1 << 20 }),
    collect: async (_signal, { all = false } = {}) =>
      all ? { blobs: 2, bytes: 2048 } : { blobs: 1, bytes: 512 },
    scrub: async ({ onProgress }) => {
      onProgress?.({ blocks: 1, bytes: 1024, bad: 0, total: 4096 })
      await new Promise((resolve) => setTimeout(resolve, 20))
      return { blocks: 3, bytes: 4096, bad: 1 }
    },
    blobs: async function* () {
      yield {
        digest: digest('layer'),
        size: 4096,
        mediaType: undefined,
        complete: false,
        pinned: false,
        usedAt: 1,
        bytesHere: 4096,
        bytesKept: 1024,
        borrowedFrom: undefined,
        mayMove: true,
      }
    },
    close: async () => {},
  } satisfies Partial<BlockStore> as unknown as BlockStore
}

/** A pull of one manifest and one layer that goes on when it is told to. */
export function standInPull() {
  const wanted: { reference: string; platform?: string }[] = []
  const gates: { go: (how?: Error) => void; progress: (bytes: number) => void }[] = []
  const progressOf = (bytes: number): PullProgress => ({
    digest: digest('manifest'),
    blobs: [
      {
        digest: digest('manifest'),
        kind: 'manifest',
        size: 10,
        bytesHere: 10,
        state: 'done',
        sources: { local: 0, peers: 10, upstream: 0 },
      },
      {
        digest: digest('layer'),
        kind: 'layer',
        size: 990,
        bytesHere: bytes,
        state: bytes === 990 ? 'done' : 'running',
        sources: { local: 0, peers: 0, upstream: bytes },
      },
    ],
  })
  const pull: PullImage = (request, { signal, onProgress }) => {
    wanted.push(request)
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error))
      onProgress(progressOf(0))
      gates.push({
        go: (how) => (how ? reject(how) : resolve(progressOf(990))),
        progress: (bytes) => onProgress(progressOf(bytes)),
      })
    })
  }
  return { pull, wanted, gates }
}

const REDIS: ImageInfo = {
  reference: 'docker.io/library/redis:7',
  digest: digest('manifest'),
  platforms: ['linux/amd64'],
  size: 1000,
  bytesHere: 400,
  bytesKept: 200,
  bytesBorrowed: 300,
  complete: false,
  pinned: true,
  blobs: 3,
  usedAt: 1,
}

/** Pins over the one image that there is. */
export function standInPins(): ImagePins {
  let pinned = false
  const isRedis = (reference: string): boolean => /^(docker\.io\/library\/)?redis:7$/.test(reference)
  return {
    pin: async (reference) => {
      if (!isRedis(reference)) throw new ShoalError('NOT_FOUND', `${reference} is not here; pull it first`)
      pinned = true
      return REDIS
    },
    unpin: async (reference) => {
      const was = pinned && isRedis(reference)
      if (was) pinned = false
      return was
    },
  }
}

export interface Listening {
  server: Server
  host: string
  port: number
  url: string
  close(): Promise<void>
}

export async function listen(listener: RequestListener, host = '127.0.0.1'): Promise<Listening> {
  const server = createServer(listener)
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, host, resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    server,
    host,
    port,
    url: `http://${host}:${port}`,
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** A repository of which a tag was written on two nodes at once. */
const LOCAL: LocalRepositoryInfo = {
  name: 'local/app',
  tags: [
    {
      tag: 'v1',
      digest: digest('winner'),
      at: 2,
      node: member('other').id,
      beaten: [{ digest: digest('loser'), at: 1, node: member('self').id }],
    },
  ],
  manifests: [{ digest: digest('winner'), mediaType: 'application/vnd.oci.image.manifest.v1+json', size: 7 }],
}

/** The whole API over stand-ins, listening. */
export async function startApi(over: Partial<ApiDeps> = {}, host?: string) {
  const spoken = standInManager(undefined, [task('running'), task('gone', { state: 'done', leases: 0 })])
  const puller = standInPull()
  const lag = createLagMeter()
  const readiness = createReadiness({ store: 'the store is opening' })
  const store = standInStore()
  const { manager } = spoken
  const upstreams = () => [{ host: 'docker.io', requests: 7, failures: 1, lastError: '503' }]
  const api = createApi({
    manager,
    store,
    images: async () => [REDIS],
    local: async (name) => (name === undefined || name === 'local/app' ? [LOCAL] : []),
    pull: puller.pull,
    pins: standInPins(),
    repair: () => {},
    storeImage: createStoreImage({ collect: standInCollect, storing: manager.storing }),
    storedName: (reference) => storedName(reference),
    platform: standInPlatform(),
    metrics: createMetrics([...nodeInstruments({ manager, store, upstreams }), ...processInstruments(lag)]),
    lag,
    readiness: readiness.checks,
    upstreams,
    config: {
      token: TOKEN,
      version: '1.2.3',
      registry: '127.0.0.1:5080',
      names: ['edge-1'],
      scrubEveryMs: 0,
    },
    log: silentLog(),
    ...over,
  })
  const at = await listen(api.app, host)
  return {
    ...at,
    api,
    readiness,
    ...spoken,
    ...puller,
    close: async () => {
      await api.close()
      lag.close()
      await at.close()
    },
  }
}
