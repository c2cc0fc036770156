import { formatBytes } from '../../base/index.ts'
import type { PeerStatus, TaskStatus } from '../../manager/index.ts'
import type { UpstreamHealth } from '../api/types.ts'
import {
  formatAgo,
  formatRate,
  formatSources,
  percent,
  print,
  printJson,
  shortDigest,
  shortId,
  table,
} from '../output.ts'
import { formatDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

export interface TaskAnswer extends TaskStatus {
  coordinatorName: string
  rate: number
  waitingFor: string
}

/** What GET /api/v1/status answers. */
export interface StatusAnswer {
  id: string
  name: string
  site: string
  addrs: string[]
  registry: string
  version: string
  startedAt: number
  uptimeMs: number
  ready: { name: string; ok: boolean; reason?: string }[]
  store: { bytes: number; blocks: number; borrowed: number; kept: number; quota?: number }
  totals: { peersIn: number; peersOut: number; upstream: number; local: number }
  tasks: TaskAnswer[]
  members: Record<string, number>
  upstreams: UpstreamHealth[]
  eventLoopLagMs: { p50: number; p99: number; max: number }
  rssBytes: number
}

export type PeerAnswer = PeerStatus['member'] & Omit<PeerStatus, 'member'>

export function taskLines(tasks: TaskAnswer[]): string[] {
  return table(
    [
      { title: 'BLOB' },
      { title: 'OF' },
      { title: 'HERE', right: true },
      { title: 'SIZE', right: true },
      { title: 'RATE', right: true },
      { title: 'PEERS', right: true },
      { title: 'UPSTREAM', right: true },
      { title: 'COORDINATOR' },
      { title: 'WAITS FOR' },
    ],
    tasks.map((task) => [
      shortDigest(task.digest),
      task.label,
      formatBytes(task.bytesHere),
      task.size === undefined ? '?' : formatBytes(task.size),
      formatRate(task.rate),
      formatBytes(task.sources.peers),
      formatBytes(task.sources.upstream),
      task.coordinatorName,
      task.waitingFor,
    ]),
  )
}

export function peerLines(peers: PeerAnswer[]): string[] {
  return table(
    [
      { title: 'NAME' },
      { title: 'ID' },
      { title: 'SITE' },
      { title: 'STATE' },
      { title: 'RATE', right: true },
      { title: 'LATENCY', right: true },
      { title: 'RECEIVED', right: true },
      { title: 'SENT', right: true },
      { title: 'ADDRESS' },
    ],
    peers.map((peer) => [
      peer.name,
      shortId(peer.id),
      peer.site,
      [peer.state, peer.state === 'alive' && !peer.connected ? 'idle' : '', peer.shunned ? 'shunned' : '']
        .filter((word) => word !== '')
        .join(', '),
      formatRate(peer.rate),
      peer.latencyMs > 0 ? `${peer.latencyMs.toFixed(1)}ms` : '-',
      formatBytes(peer.received),
      formatBytes(peer.sent),
      peer.addrs[0] ?? '-',
    ]),
  )
}

function upstreamLines(upstreams: UpstreamHealth[], now: number): string[] {
  const state = ({ lastOkAt = 0, lastFailureAt = 0 }: UpstreamHealth): string =>
    lastOkAt === 0 && lastFailureAt === 0 ? 'unused' : lastOkAt >= lastFailureAt ? 'ok' : 'failing'
  return table(
    [
      { title: 'UPSTREAM' },
      { title: 'STATE' },
      { title: 'REQUESTS', right: true },
      { title: 'FAILED', right: true },
      { title: 'LAST FAILURE' },
    ],
    upstreams.map((upstream) => [
      upstream.host,
      state(upstream),
      String(upstream.requests),
      String(upstream.failures),
      upstream.lastFailureAt === undefined
        ? '-'
        : `${formatAgo(upstream.lastFailureAt, now)}${upstream.lastError === undefined ? '' : `: ${upstream.lastError}`}`,
    ]),
  )
}

function headLines(status: StatusAnswer): string[] {
  const { store, totals, members, eventLoopLagMs: lag } = status
  const quota =
    store.quota === undefined ? '' : ` of ${formatBytes(store.quota)} (${percent(store.bytes, store.quota)})`
  const borrowed = store.borrowed === 0 ? '' : `, and ${formatBytes(store.borrowed)} in containerd's files`
  const kept = store.kept > 0 ? `, ${formatBytes(store.kept)} kept` : ''
  const others = ['suspect', 'dead', 'left']
    .filter((state) => (members[state] ?? 0) > 0)
    .map((state) => `, ${members[state]} ${state}`)
  const waiting = status.ready.filter(({ ok }) => !ok).map(({ name, reason }) => reason ?? name)
  const rows: [string, string][] = [
    ['node', `${status.name} (${status.id})`],
    ['state', waiting.length === 0 ? 'ready' : `not ready: ${waiting.join('; ')}`],
    ['site', `${status.site}: ${members.alive ?? 0} alive${others.join('')}`],
    ['up', `${formatDuration(status.uptimeMs)}, version ${status.version}`],
    ['registry', status.registry],
    ['store', `${formatBytes(store.bytes)}${quota} in ${store.blocks} blocks${borrowed}${kept}`],
    ['bytes', formatSources({ local: totals.local, peers: totals.peersIn, upstream: totals.upstream })],
    ['sent', `${formatBytes(totals.peersOut)} to peers`],
    [
      'load',
      `${formatBytes(status.rssBytes)} resident, event loop late by ${lag.p99}ms (p99), ${lag.max}ms at most`,
    ],
  ]
  return rows.map(([name, value]) => `${name.padEnd(9)} ${value}`)
}

/** What people read when something is slow: where bytes come from, what waits for what, how peers and upstreams do. */
export function statusLines(status: StatusAnswer, peers: PeerAnswer[], now: number): string[] {
  const lines = headLines(status)
  if (status.upstreams.length > 0) lines.push('', ...upstreamLines(status.upstreams, now))
  if (peers.length > 0) lines.push('', ...peerLines(peers))
  lines.push('', ...(status.tasks.length > 0 ? taskLines(status.tasks) : ['no task is under way']))
  return lines
}

/** `shoal status` */
export async function statusCommand(context: Context, flags: ClientFlags): Promise<void> {
  await withClient(context, flags, async (client) => {
    const { signal } = context
    const status = await client.get<StatusAnswer>('/api/v1/status', { signal })
    if (flags.json) return printJson(context.io, status)
    const peers = await client.get<PeerAnswer[]>('/api/v1/peers', { signal })
    // Of a large site only those that matter here: the fastest talkers, and who is in trouble.
    const shown = peers
      .toSorted((a, b) => b.received + b.sent - (a.received + a.sent))
      .filter((peer, i) => i < 10 || peer.shunned || peer.state === 'suspect')
    print(context.io, statusLines(status, shown, Date.now()))
    if (shown.length < peers.length)
      print(context.io, [`and ${peers.length - shown.length} more: shoal peers`])
  })
}

/** `shoal peers` */
export async function peersCommand(context: Context, flags: ClientFlags): Promise<void> {
  await withClient(context, flags, async (client) => {
    const peers = await client.get<PeerAnswer[]>('/api/v1/peers', { signal: context.signal })
    if (flags.json) return printJson(context.io, peers)
    print(context.io, peers.length > 0 ? peerLines(peers) : ['this node knows no other'])
  })
}
