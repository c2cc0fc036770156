import { readdirSync, readFileSync } from 'node:fs'
import type { Counter, Gauge, Registry } from 'prom-client'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Manager } from '../../manager/index.ts'
import type { LagMeter } from './lag.ts'
import type { UpstreamHealth } from './types.ts'
import { membersByState } from './views.ts'

/** A value that is read when somebody asks for it: nothing is counted twice, and idle nodes do no work. */
export interface Instrument {
  name: string
  help: string
  type: 'gauge' | 'counter'
  label?: string
  /** One value, or one for each value of the label. */
  read: () => number | Record<string, number>
}

export interface Metrics {
  /** The Prometheus text and its media type. */
  render(): Promise<{ type: string; text: string }>
}

function openFiles(): number {
  try {
    return readdirSync('/proc/self/fd').length - 1
  } catch {
    return 0
  }
}

function maxFiles(): number {
  try {
    return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** The process and its event loop, under the names that dashboards expect. */
export function processInstruments(lag: LagMeter): Instrument[] {
  const startedAt = Date.now() / 1000 - process.uptime()
  const gauge = (name: string, help: string, read: Instrument['read'], label?: string): Instrument => ({
    name,
    help,
    type: 'gauge',
    read,
    ...(label === undefined ? {} : { label }),
  })
  return [
    {
      name: 'process_cpu_seconds_total',
      help: 'User and system CPU time spent, in seconds',
      type: 'counter',
      read: () => (process.cpuUsage().user + process.cpuUsage().system) / 1e6,
    },
    gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss()),
    gauge('process_start_time_seconds', 'Start time, in seconds since the epoch', () => startedAt),
    gauge('process_open_fds', 'Open file descriptors', openFiles),
    gauge('process_max_fds', 'Limit of open file descriptors', maxFiles),
    gauge('nodejs_heap_size_used_bytes', 'Used V8 heap', () => process.memoryUsage().heapUsed),
    gauge(
      'nodejs_external_memory_bytes',
      'Buffers outside of the V8 heap',
      () => process.memoryUsage().external,
    ),
    gauge(
      'shoal_event_loop_lag_seconds',
      'How late the event loop was in the last minutes',
      () => {
        const { p50, p99, max } = lag.read()
        return { p50: p50 / 1e3, p99: p99 / 1e3, max: max / 1e3 }
      },
      'quantile',
    ),
  ]
}

/** The node's own figures. */
export function nodeInstruments({
  manager,
  store,
  upstreams = () => [],
}: {
  manager: Manager
  store: BlockStore
  upstreams?: () => UpstreamHealth[]
}): Instrument[] {
  const perHost = (pick: (health: UpstreamHealth) => number): Record<string, number> =>
    Object.fromEntries(upstreams().map((health) => [health.host, pick(health)]))
  return [
    {
      name: 'shoal_bytes_total',
      help: 'Bytes by where they came from (local, peers, upstream)',
      type: 'counter',
      label: 'source',
      read: () => {
        const { local, peersIn, upstream } = manager.totals()
        return { local, peers: peersIn, upstream }
      },
    },
    {
      name: 'shoal_peer_sent_bytes_total',
      help: 'Bytes sent to peers',
      type: 'counter',
      read: () => manager.totals().peersOut,
    },
    { name: 'shoal_store_bytes', help: 'Bytes in the store', type: 'gauge', read: () => store.usage().bytes },
    {
      name: 'shoal_store_blocks',
      help: 'Blocks in the store',
      type: 'gauge',
      read: () => store.usage().blocks,
    },
    {
      name: 'shoal_store_borrowed_bytes',
      help: "Bytes served from containerd's files; not in shoal_store_bytes",
      type: 'gauge',
      read: () => store.usage().borrowed,
    },
    {
      name: 'shoal_store_quota_bytes',
      help: 'Quota of the store; 0 for none',
      type: 'gauge',
      read: () => store.usage().quota ?? 0,
    },
    {
      name: 'shoal_tasks',
      help: 'Tasks by state',
      type: 'gauge',
      label: 'state',
      read: () => {
        const count = { running: 0, done: 0, failed: 0 }
        for (const { state } of manager.tasks()) count[state]++
        return count
      },
    },
    {
      name: 'shoal_members',
      help: 'Known nodes by state, this one included',
      type: 'gauge',
      label: 'state',
      read: () => membersByState(manager.members.list()),
    },
    {
      name: 'shoal_peers_connected',
      help: 'Peers with a connection',
      type: 'gauge',
      read: () => manager.peers().filter(({ connected }) => connected).length,
    },
    {
      name: 'shoal_upstream_requests_total',
      help: 'Requests to upstream registries',
      type: 'counter',
      label: 'host',
      read: () => perHost(({ requests }) => requests),
    },
    {
      name: 'shoal_upstream_failures_total',
      help: 'Requests to upstream registries that failed',
      type: 'counter',
      label: 'host',
      read: () => perHost(({ failures }) => failures),
    },
  ]
}

/** Renders instruments with prom-client, which is loaded at the first scrape: nodes that nobody scrapes do not pay for it. */
export function createMetrics(instruments: Instrument[]): Metrics {
  let registry: Promise<Registry> | undefined

  async function build(): Promise<Registry> {
    const prom = await import('prom-client')
    const own = new prom.Registry()
    for (const { name, help, type, label, read } of instruments) {
      const options = { name, help, labelNames: label === undefined ? [] : [label], registers: [own] }
      if (type === 'gauge') {
        new prom.Gauge({
          ...options,
          collect: collectInto((metric: Gauge, labels, v) => metric.set(labels, v)),
        })
      } else {
        new prom.Counter({
          ...options,
          collect: collectInto((metric: Counter, labels, v) => metric.inc(labels, v)),
        })
      }
      function collectInto<M extends { reset(): void }>(
        put: (metric: M, labels: Record<string, string>, value: number) => void,
      ): (this: M) => void {
        return function (this: M) {
          this.reset()
          const values = read()
          if (typeof values === 'number') return put(this, {}, values)
          for (const [key, value] of Object.entries(values)) put(this, { [label ?? '']: key }, value)
        }
      }
    }
    return own
  }

  return {
    render: async () => {
      registry ??= build()
      const own = await registry
      return { type: own.contentType, text: await own.metrics() }
    },
  }
}
