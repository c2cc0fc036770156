import { readFileSync } from 'node:fs'
import type { PullReport } from './client.ts'
import type { Host, Lab } from './lab.ts'
import { until } from './sh.ts'
import type { ShoalNode, ShoalOptions } from './shoal.ts'

/** The parts of the management API's answers that tests look at. */
export interface ApiStatus {
  id: string
  name: string
  members: { alive: number; suspect: number; dead: number }
  totals: { peersIn: number; peersOut: number; upstream: number; local: number }
  store: { bytes: number; borrowed: number }
}

export interface ApiTask {
  digest: string
  size?: number
  bytesHere: number
  coordinator: string
  leases: number
  state: string
  sources: { local: number; peers: number; upstream: number }
}

/** Shoal daemons on hosts of a lab that know each other. */
export interface Site {
  lab: Lab
  hosts: Host[]
  /** One a host; a restart replaces the entry. */
  nodes: ShoalNode[]
  status(i: number): Promise<ApiStatus>
  tasks(i: number): Promise<ApiTask[]>
  /** Index of the node with this peer ID. */
  indexOf(id: string): number
  /** Every host pulls at the same moment. */
  pullAll(name: string, reference: string, options?: SitePull): Promise<PullReport[]>
  pull(i: number, name: string, reference: string, options?: SitePull): Promise<PullReport>
  /** Starts the daemon of host `i` again, on the data it had; its own options win over the site's. */
  restart(i: number, options?: ShoalOptions): Promise<void>
  /** Starts a daemon on one more host, and waits until everybody sees everybody alive. */
  join(host: Host): Promise<void>
  /** Starts what does not run, and waits until everybody sees everybody alive. */
  heal(): Promise<void>
  /** The ends of the daemons' logs, for the report of a failure. */
  logs(lines?: number): string
  stop(): Promise<void>
}

export interface SitePull {
  concurrency?: number
  /** ms until the clients start, so that all of them are up by then; default 400 ms a host. */
  leadMs?: number
  stallMs?: number
  timeoutMs?: number
  auth?: string
  /** Host name that goes before the image's name; default docker.io. */
  upstream?: string
  /** ms since the epoch at which the client begins. */
  at?: number
}

/** Starts a daemon on each host (the first one alone, since the others bootstrap from it) and waits until they are a site. */
export async function startSite(
  lab: Lab,
  options: ShoalOptions | ((i: number) => ShoalOptions) = {},
  on: Host[] = lab.hosts,
): Promise<Site> {
  const hosts = [...on]
  const optionsOf = typeof options === 'function' ? options : () => options
  const bootstrap = (i: number) =>
    hosts.filter((_, j) => j !== i && j < 2).map((host) => `/ip4/${host.address}/tcp/5082`)
  const launch = (i: number, more: ShoalOptions = {}) =>
    hosts[i]!.shoal({ bootstrap: bootstrap(i), ...optionsOf(i), ...more })

  const nodes = [await launch(0)]
  nodes.push(...(await Promise.all(hosts.slice(1).map((_, i) => launch(i + 1)))))
  const ids: string[] = []
  const status = async (i: number) => (await nodes[i]!.api('/api/v1/status')) as ApiStatus

  const together = async () => {
    await until(
      'all nodes see each other',
      async () => {
        const all = await Promise.all(hosts.map((_, i) => status(i).catch(() => undefined)))
        return all.every((s) => s !== undefined && s.members.alive >= hosts.length && s.members.suspect === 0)
      },
      { timeoutMs: 45_000, everyMs: 300 },
    )
    for (const i of hosts.keys()) ids[i] = (await status(i)).id
  }
  await together()

  const pull = (i: number, name: string, reference: string, o: SitePull = {}) =>
    hosts[i]!.pull({
      base: `${nodes[i]!.registry}/${o.upstream ?? 'docker.io'}`,
      name,
      reference,
      concurrency: o.concurrency ?? 3,
      ...(o.at === undefined ? {} : { at: o.at }),
      ...(o.auth === undefined ? {} : { auth: o.auth }),
      ...(o.stallMs === undefined ? {} : { stallMs: o.stallMs }),
      ...(o.timeoutMs === undefined ? {} : { timeoutMs: o.timeoutMs }),
    })

  return {
    lab,
    hosts,
    nodes,
    status,
    tasks: async (i) => (await nodes[i]!.api('/api/v1/tasks')) as ApiTask[],
    indexOf: (id) => ids.indexOf(id),
    pull,
    pullAll(name, reference, o = {}) {
      const at = Date.now() + (o.leadMs ?? 400 + 200 * hosts.length)
      return Promise.all(hosts.map((_, i) => pull(i, name, reference, { ...o, at })))
    },
    async restart(i, more) {
      await nodes[i]!.stop()
      nodes[i] = await launch(i, more)
    },
    async join(host) {
      hosts.push(host)
      nodes.push(await launch(hosts.length - 1))
      await together()
    },
    async heal() {
      for (const [i, node] of nodes.entries()) if (!node.service.running()) nodes[i] = await launch(i)
      await together()
    },
    logs(lines = 25) {
      return nodes.map((node, i) => `--- ${hosts[i]!.name}\n${tail(node.service.log, lines)}`).join('\n')
    },
    async stop() {
      await Promise.all(nodes.map((node) => node.stop()))
    },
  }
}

function tail(file: string, lines: number): string {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-lines).join('\n')
  } catch {
    return ''
  }
}
