import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, createServer, type IncomingHttpHeaders, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Log, silentLog } from '../../base/index.ts'
import { type BlockStore, openBlockStore } from '../../blockstore/index.ts'
import {
  createProxy,
  type ProxyConfig,
  type PushDependencies,
  type RegistryProxy,
} from '../../proxy/index.ts'
import type { UpstreamConfig } from '../../proxy/types.ts'
import type { FakeRegistry } from '../fakes/registry.ts'
import { createStandIn, type StandIn, type StandInSite } from './stand-in.ts'
import { client } from './upstream-tools.ts'

export interface Answer {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
  /** The connection ended before the body did. */
  broken: boolean
  json(): { errors?: { code: string; message: string }[] } & Record<string, unknown>
}

export interface Node {
  proxy: RegistryProxy
  manager: StandIn
  store: BlockStore
  dir: string
  base: string
  /** Milliseconds that its clock is ahead. */
  clock: { ahead: number }
  logged: { level: string; fields: Record<string, unknown>; message: string }[]
  get(
    path: string,
    headers?: Record<string, string>,
    method?: string,
    body?: string | Uint8Array,
  ): Promise<Answer>
  /** Ends it; its directory stays. */
  stop(): Promise<void>
}

/** A node whose manager is a stand-in, before `registry` as docker.io and as `registry.test`. */
export async function node(
  t: TestContext,
  registry: Pick<FakeRegistry, 'url'>,
  options: {
    config?: Partial<ProxyConfig>
    upstream?: Partial<UpstreamConfig>
    site?: StandInSite
    id?: string
    dir?: string
    quota?: number
    push?: Partial<Omit<PushDependencies, 'config'>> & { config?: Partial<PushDependencies['config']> }
  } = {},
): Promise<Node> {
  const dir = options.dir ?? (await mkdtemp(join(tmpdir(), 'shoal-proxy-')))
  if (options.dir === undefined) t.after(() => rm(dir, { recursive: true, force: true }))
  const store = await openBlockStore({ dir, quota: options.quota })
  const manager = createStandIn({
    id: options.id ?? 'self',
    store,
    ...(options.site ? { site: options.site } : {}),
  })
  const upstream = client(t, {
    mirrors: { 'docker.io': registry.url, 'registry.test': registry.url },
    retries: 0,
    ...options.upstream,
  })
  const logged: Node['logged'] = []
  const clock = { ahead: 0 }
  const proxy = createProxy({
    manager,
    store,
    upstream,
    push: {
      authorize: () => {},
      storing: { store: async () => {}, forget: async () => true },
      ...options.push,
      config: { dir: join(dir, 'uploads'), ...options.push?.config },
    },
    config: { credentialSalt: 'salt of the test', ...options.config },
    log: recorder(logged),
    name: 'testnode',
    now: () => Date.now() + clock.ahead,
  })
  await proxy.start()
  const server = createServer(proxy.handler)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  let stopped: Promise<void> | undefined
  const stop = (): Promise<void> => {
    stopped ??= (async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      await proxy.close()
      await store.close()
    })()
    return stopped
  }
  t.after(stop)
  return {
    proxy,
    manager,
    store,
    dir,
    base,
    clock,
    logged,
    get: (path, headers, method, body) => get(base, path, headers, method, body),
    stop,
  }
}

/** A request with the path exactly as given: fetch would tidy it up. */
export function get(
  base: string,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
  body?: string | Uint8Array,
): Promise<Answer> {
  const { hostname, port } = new URL(base)
  return new Promise((resolve, reject) => {
    const agent = new Agent({ keepAlive: false })
    const sent = request({ hostname, port, path, method, headers, agent }, (response) => {
      const parts: Buffer[] = []
      let broken = false
      const finish = (): void => {
        const body = Buffer.concat(parts)
        const json = (): ReturnType<Answer['json']> => JSON.parse(body.toString('utf8'))
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body, broken, json })
      }
      response.on('data', (part: Buffer) => parts.push(part))
      response.on('error', () => {
        broken = true
      })
      response.on('close', finish)
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

/** The code of an OCI error answer. */
export function codeOf(answer: Answer): string | undefined {
  return answer.json().errors?.[0]?.code
}

function recorder(logged: Node['logged']): Log {
  const at =
    (level: string) =>
    (fields: object, message: string): void =>
      void logged.push({ level, fields: fields as Record<string, unknown>, message })
  const log: Log = {
    debug: silentLog().debug,
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: () => log,
  }
  return log
}

/** Waits until `check` is true; fails after 30 s. */
export async function eventually(what: string, check: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + 30_000; performance.now() < end; ) {
    if (await check()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error(`not within 30 s: ${what}`)
}
