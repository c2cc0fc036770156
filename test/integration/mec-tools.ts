import assert from 'node:assert/strict'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { setTimeout as wait } from 'node:timers/promises'
import { type Log, silentLog } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import { createMec, type Mec, type MecConfig } from '../../integration/mec/index.ts'
import type { Member } from '../../manager/types.ts'
import { createRecordsTwin } from '../manager/records-twin.ts'
import { createMembersTwin, createOffloadTwin, createRpcTwin, type OffloadTwin } from './mec-twin.ts'

/** The application of kube-mec's form that most tests use. */
export const APP = {
  name: 'counter',
  pods: [
    {
      name: 'web',
      image: 'registry.example/counter:1',
      ui: true,
      args: ['--verbose'],
      env: { MODE: 'edge' },
      cpu: '250m',
      memory: '64Mi',
      storage: '100Mi',
      ports: [8080],
    },
  ],
  requiredDelayMs: 20,
  executionTimeS: 60,
  priority: 1,
}

/** Tables that outlive a daemon. */
export function createTables() {
  const tables = new Map<string, Map<string, string>>()
  return <T>(name: string): Records<T> => {
    const table = tables.get(name) ?? new Map<string, string>()
    tables.set(name, table)
    return {
      get: async (key) => {
        const text = table.get(key)
        return text === undefined ? undefined : (JSON.parse(text) as T)
      },
      put: async (key, value) => void table.set(key, JSON.stringify(value)),
      delete: async (key) => void table.delete(key),
      async *entries(prefix = '') {
        for (const key of [...table.keys()].sort()) {
          const text = table.get(key)
          if (key.startsWith(prefix) && text !== undefined) yield [key, JSON.parse(text) as T]
        }
      },
    }
  }
}

export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: an answer has whatever form the test says
  body: any
}

export type Ask = (
  method: string,
  path: string,
  body?: unknown,
  headers?: Record<string, string>,
) => Promise<Answer>

/** Requests as one device. */
export function createAsk(base: string, token?: string): Ask {
  return async (method, path, body, headers = {}) => {
    const res = await fetch(base + path, {
      method,
      headers: {
        ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await res.text()
    return { status: res.status, headers: res.headers, body: text === '' ? undefined : JSON.parse(text) }
  }
}

export interface MecNode {
  mec: Mec
  offload: OffloadTwin
  base: string
  ask(token: string): Ask
  /** A new device with a token. */
  device(ue: string): Promise<Ask>
  stop(): Promise<void>
}

export interface MecCluster {
  members: Member[]
  rpc: ReturnType<typeof createRpcTwin>
  /** Starts the node, again where it was stopped: on what it had. */
  start(name: string, config?: Partial<MecConfig>): Promise<MecNode>
}

export function createMecCluster(
  t: TestContext,
  names: string[] = ['edge-1'],
  log: Log = silentLog(),
): MecCluster {
  const members = names.map(
    (name): Member => ({
      id: `12D3KooW${name}`,
      name,
      site: 'plant',
      addrs: [],
      state: 'alive',
      incarnation: 1,
    }),
  )
  const records = createRecordsTwin(members.length)
  const rpc = createRpcTwin()
  const tables = new Map<string, ReturnType<typeof createTables>>()
  const twins = new Map<string, OffloadTwin>()
  return {
    members,
    rpc,
    async start(name, config = {}) {
      const self = members.find((member) => member.name === name)!
      const view = createMembersTwin(members, self.id)
      const table = tables.get(name) ?? createTables()
      tables.set(name, table)
      const offload = twins.get(name) ?? createOffloadTwin(view)
      twins.set(name, offload)
      const mec = await createMec({
        offload,
        members: view,
        rpc: rpc.join(self.id),
        records: records.join(self.id),
        table,
        config: {
          listen: { host: '127.0.0.1', port: 0 },
          packageSources: [],
          version: '1.2.3',
          retryMs: 50,
          ...config,
        },
        log,
      })
      const scheme = config.listen?.cert === undefined ? 'http' : 'https'
      const base = `${scheme}://127.0.0.1:${mec.address.port}`
      let stopped: Promise<void> | undefined
      const node: MecNode = {
        mec,
        offload,
        base,
        ask: (token) => createAsk(base, token),
        device: async (ue) => createAsk(base, (await mec.tokens.create(ue)).token),
        stop: () => {
          stopped ??= mec.close()
          return stopped
        },
      }
      t.after(() => node.stop())
      return node
    },
  }
}

/** One node, and a device. */
export async function startMec(t: TestContext, config?: Partial<MecConfig>) {
  const cluster = createMecCluster(t)
  const node = await cluster.start('edge-1', config)
  return { ...node, cluster, ue: await node.device('ue-1') }
}

export interface Received {
  path: string
  headers: IncomingHttpHeaders
  // biome-ignore lint/suspicious/noExplicitAny: a notification has whatever form the test says
  body: any
}

/** A device's end of callbacks. `answer` may be as bad as a test likes. */
export async function startReceiver(
  t: TestContext,
  answer: (res: ServerResponse, received: Received) => void = (res) => res.writeHead(204).end(),
) {
  const got: Received[] = []
  const server = createServer(async (req, res) => {
    const chunks: Buffer[] = []
    for await (const chunk of req as AsyncIterable<Buffer>) chunks.push(chunk)
    const received = {
      path: req.url ?? '',
      headers: req.headers,
      body: JSON.parse(Buffer.concat(chunks).toString()),
    }
    got.push(received)
    answer(res, received)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    got,
    port,
    url: (path = '/callback') => `http://127.0.0.1:${port}${path}`,
    async next(type: string, count = 1): Promise<Received> {
      const found = (): Received[] => got.filter(({ body }) => body.notificationType === type)
      await until(`${count} of ${type}`, () => found().length >= count)
      return found()[count - 1]!
    },
  }
}

export async function until(what: string, holds: () => unknown, timeoutMs = 20_000): Promise<void> {
  const end = Date.now() + timeoutMs
  while (!(await holds())) {
    if (Date.now() > end) assert.fail(`in vain: ${what}`)
    await wait(10)
  }
}

/** An application context of ETSI's for an application that the device registered. */
export function contextOf(appDId: string, over: Record<string, unknown> = {}) {
  return {
    associateDevAppId: 'dev-app-1',
    appInfo: {
      appDId,
      appName: 'counter',
      appProvider: 'ue-1',
      appDVersion: '1.0',
      userAppInstanceInfo: [{}],
    },
    ...over,
  }
}
