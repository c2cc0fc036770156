import { formatBytes, ShoalError } from '../../base/index.ts'
import type { HealthCheck, Migration } from '../../integration/index.ts'
import type { Member } from '../../manager/index.ts'
import type { Client } from '../client.ts'
import { formatAgo, type Io, print, printJson, shortId, table } from '../output.ts'
import { createLineProgress } from '../progress.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'
import { follow } from './follow.ts'

export interface MigrateFlags extends ClientFlags {
  to: string
  runtime?: string
  rounds?: string
  health?: string
  tcpEstablished?: boolean
}

/** `exec:CMD ARGS`, `http://…` or `tcp:HOST:PORT`. @throws USAGE */
export function parseHealth(text: string): HealthCheck {
  if (text.startsWith('http://')) return { kind: 'http', url: text }
  const exec = /^exec:\s*(\S.*)$/.exec(text)?.[1]
  if (exec !== undefined) return { kind: 'exec', args: exec.split(/\s+/) }
  const tcp = /^tcp:\[?(.+?)\]?:(\d+)$/.exec(text)
  if (tcp) return { kind: 'tcp', host: tcp[1] ?? '', port: Number(tcp[2]) }
  throw new ShoalError('USAGE', `--health must be exec:COMMAND, http://… or tcp:HOST:PORT, not ${text}`)
}

/** What there is to say of a migration in one line. */
function describe({ phase, state, rounds }: Migration): string {
  const sent = rounds.reduce((sum, round) => sum + round.sent, 0)
  const what = state === 'running' ? phase : state
  const last = rounds.at(-1)
  const round = last ? `, round ${rounds.length}: ${formatBytes(last.changed)} changed` : ''
  return `${what}${round}${sent > 0 ? `, ${formatBytes(sent)} sent` : ''}`
}

function summary(migration: Migration, to: string): string[] {
  const { container, rounds, downtimeMs, startedAt, endedAt } = migration
  const sent = rounds.reduce((sum, round) => sum + round.sent, 0)
  const seconds = ((endedAt ?? startedAt) - startedAt) / 1000
  return [
    `${container.name} runs on ${to}: frozen for ${((downtimeMs ?? 0) / 1000).toFixed(2)} s, ${seconds.toFixed(1)} s in all`,
    `${rounds.length} rounds, ${formatBytes(sent)} sent, ${formatBytes(rounds.at(-1)?.sent ?? 0)} of them while it was frozen`,
  ]
}

const FAILURES = {
  refused: 'was refused, and the container runs here untouched',
  failed: 'failed, and the container was not frozen',
  'rolled-back': 'was taken back, and the container runs here again',
  'called-off': 'was called off, and the container runs here untouched',
  undecided: 'is undecided',
} as const

/** `shoal migrate`: moves a running container to another node. An interrupt leaves it to the daemons. */
export async function migrateCommand(
  context: Context,
  container: string,
  flags: MigrateFlags,
): Promise<void> {
  const { io, signal } = context
  if (flags.rounds !== undefined && !/^\d{1,3}$/.test(flags.rounds)) {
    throw new ShoalError('USAGE', `--rounds must be a number, not ${flags.rounds}`)
  }
  const body = {
    container,
    to: flags.to,
    ...(flags.runtime === undefined ? {} : { runtime: flags.runtime }),
    ...(flags.rounds === undefined ? {} : { rounds: Number(flags.rounds) }),
    ...(flags.health === undefined ? {} : { health: parseHealth(flags.health) }),
    ...(flags.tcpEstablished ? { tcpEstablished: true } : {}),
  }
  await withClient(context, flags, async (client) => {
    const started = await client.send<Migration>('POST', '/api/v1/migrations', body, { patienceMs: 30e3 })
    const progress = flags.json ? undefined : createLineProgress(io.err, describe)
    const ended = await follow({
      client,
      type: 'migration',
      path: `/api/v1/migrations/${started.id}`,
      started,
      signal,
      isIt: ({ id, role }) => id === started.id && role === 'source',
      onUpdate: (migration) => progress?.update(migration),
    })
      .catch((error: unknown) => {
        if (!signal.aborted) throw error
        throw new ShoalError(
          'ABORTED',
          `interrupted: migration ${started.id} goes on; to call it off: shoal migrations cancel ${started.id}`,
        )
      })
      .finally(() => progress?.end())
    if (ended.state !== 'done') {
      const { state, reason } = ended
      if (flags.json) printJson(io, ended)
      const what = FAILURES[state as keyof typeof FAILURES] ?? state
      const code = state === 'refused' ? 'UNFIT' : 'RUNTIME'
      throw new ShoalError(code, `migration ${ended.id} ${what}: ${reason ?? 'no reason is known'}`)
    }
    if (flags.json) printJson(io, ended)
    else print(io, summary(ended, flags.to))
  })
}

async function namesOf(client: Client, signal: AbortSignal): Promise<(id: string) => string> {
  const peers = await client.get<Member[]>('/api/v1/peers', { signal })
  const names = new Map(peers.map(({ id, name }) => [id, name]))
  return (id) => names.get(id) ?? shortId(id)
}

/** `shoal migrations`: those from and to this node, and what is to be decided. */
export async function migrationsCommand(context: Context, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const migrations = await client.get<Migration[]>('/api/v1/migrations', { signal })
    if (flags.json) return printJson(io, migrations)
    if (migrations.length === 0) return print(io, ['no migration is known here'])
    const nameOf = await namesOf(client, signal)
    const columns = [
      ...['ID', 'CONTAINER', 'OTHER NODE', 'STATE', 'PHASE'].map((title) => ({ title })),
      ...['ROUNDS', 'SENT', 'FROZEN', 'BEGAN'].map((title) => ({ title, right: true })),
    ]
    const rows = migrations.map((each) => [
      ...[each.id, each.container.name],
      each.role === 'source' ? `to ${nameOf(each.to)}` : `from ${nameOf(each.from)}`,
      ...[each.state, each.phase, each.rounds.length === 0 ? '-' : `${each.rounds.length}`],
      each.rounds.length === 0 ? '-' : formatBytes(each.rounds.reduce((sum, { sent }) => sum + sent, 0)),
      each.downtimeMs === undefined ? '-' : `${(each.downtimeMs / 1000).toFixed(2)} s`,
      formatAgo(each.startedAt, Date.now()),
    ])
    print(io, table(columns, rows))
    sayReasons(io, migrations)
  })
}

function sayReasons(io: Io, migrations: Migration[]): void {
  for (const { id, state, reason } of migrations) {
    if (state !== 'running' && reason !== undefined) print(io, ['', `${id} ${state}: ${reason}`])
  }
}

/** `shoal migrations cancel`: calls one off before the container is frozen. */
export async function cancelCommand(context: Context, id: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const path = `/api/v1/migrations/${encodeURIComponent(id)}`
    const started = await client.send<Migration>('POST', `${path}/cancel`, undefined, { signal })
    const ended = await follow({
      client,
      type: 'migration',
      path,
      started,
      signal,
      onUpdate: () => {},
      isIt: (told) => told.id === id,
    })
    if (flags.json) printJson(io, ended)
    else print(io, [`${ended.container.name} runs here untouched: ${ended.state}`])
  })
}

/** `shoal migrations decide`: a person's word on an undecided one. */
export async function decideCommand(
  context: Context,
  id: string,
  side: 'source' | 'target',
  flags: ClientFlags,
): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const path = `/api/v1/migrations/${encodeURIComponent(id)}`
    const started = await client.send<Migration>('POST', `${path}/decide`, { side }, { signal })
    const ended = await follow({
      client,
      type: 'migration',
      path,
      signal,
      onUpdate: () => {},
      // Undecided until the daemon has done what was decided.
      started: { ...started, state: 'running' as Migration['state'] },
      isIt: (told) => told.id === id && told.state !== 'undecided',
    })
    if (flags.json) printJson(io, ended)
    else print(io, [`${ended.container.name} runs at the ${side}: ${ended.state}`])
  })
}

/** `shoal drain`: moves everything away from this node. */
export async function drainCommand(context: Context, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const stop = new AbortController()
    if (!flags.json) {
      void client
        .events('/api/v1/events?types=migration', {
          signal: AbortSignal.any([signal, stop.signal]),
          onOpen: () => {},
          onEvent: ({ data }) => {
            const told = JSON.parse(data) as Migration
            if (told.role === 'source' && told.state === 'running')
              io.err.write(`${told.container.name}: ${describe(told)}\n`)
          },
        })
        .catch(() => {})
    }
    const done = await client
      .send<{ moved: Migration[]; left: { container: string; reason: string }[] }>(
        ...(['POST', '/api/v1/drain', undefined, { signal, patienceMs: 0 }] as const),
      )
      .finally(() => stop.abort())
    const nameOf = await namesOf(client, signal)
    if (flags.json) printJson(io, done)
    else {
      print(io, [
        ...done.moved.map(({ container, to }) => `${container.name} runs on ${nameOf(to)}`),
        ...done.left.map(({ container, reason }) => `${container} was not moved: ${reason}`),
        ...(done.moved.length + done.left.length === 0 ? ['nothing runs here'] : []),
      ])
    }
    if (done.left.length > 0) throw new ShoalError('UNFIT', `${done.left.length} could not be moved`)
  })
}
