import { formatBytes, ShoalError } from '../../base/index.ts'
import type { Checkpoint, Demands, Schedule } from '../../integration/index.ts'
import type { CheckpointJob } from '../api/checkpoint-jobs.ts'
import type { Client } from '../client.ts'
import { formatAgo, print, printJson, shortId, table } from '../output.ts'
import { createStepProgress } from '../step-progress.ts'
import { formatDuration, parseDuration } from '../units.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'
import { finish } from './follow.ts'

/** A list does not tell how a container is made again. */
type Listed = Omit<Checkpoint, 'needs' | 'recreation'>

export interface CreateFlags extends ClientFlags {
  runtime?: string
  name?: string
  leaveRunning?: boolean
  copies?: string
  encrypt?: string[]
  expires?: string
  every?: string
  keep?: string
}

function wholeNumber(text: string, flag: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text))
    throw new ShoalError('USAGE', `${flag} must be a number from 1 on, not ${text}`)
  return Number(text)
}

function secondsOf(job: CheckpointJob): string {
  return Object.entries(job.seconds ?? {})
    .map(([step, seconds]) => `${step} ${seconds.toFixed(seconds < 10 ? 2 : 0)}s`)
    .join(', ')
}

/** Follows a job to its end; an interrupt cancels it. */
async function through(
  client: Client,
  context: Context,
  flags: ClientFlags,
  started: CheckpointJob,
): Promise<CheckpointJob> {
  const progress = flags.json ? undefined : createStepProgress(context.io.err)
  const path = `/api/v1/checkpoint-jobs/${started.id}`
  return finish(client, started, {
    what: 'checkpoint',
    path,
    onUpdate: (job) => progress?.update(job.step),
    signal: context.signal,
  }).finally(() => progress?.end())
}

/** `shoal checkpoint create`: once, or every so often. */
export async function createCommand(context: Context, container: string, flags: CreateFlags): Promise<void> {
  const { io } = context
  const { runtime, name, copies, encrypt: encryptFor, expires, every, keep } = flags
  const common = {
    container,
    ...(runtime === undefined ? {} : { runtime }),
    ...(name === undefined ? {} : { name }),
    ...(copies === undefined ? {} : { copies: wholeNumber(copies, '--copies') }),
    ...(encryptFor === undefined ? {} : { encryptFor }),
  }
  if (every === undefined && keep !== undefined) throw new ShoalError('USAGE', '--keep goes with --every')
  if (every !== undefined && expires !== undefined) {
    throw new ShoalError(
      'USAGE',
      'with --every the last versions are kept (--keep): --expires has no meaning',
    )
  }
  await withClient(context, flags, async (client) => {
    if (every !== undefined) {
      const plan = await client.send<Schedule>('POST', '/api/v1/checkpoint-plans', {
        ...common,
        everyMs: parseDuration(every),
        ...(keep === undefined ? {} : { keep: wholeNumber(keep, '--keep') }),
      })
      if (flags.json) return printJson(io, plan)
      const line = `${plan.container} is checkpointed as ${plan.name} every ${formatDuration(plan.everyMs)}, the last ${plan.keep} are kept`
      return print(io, [line, `shoal checkpoint stop ${plan.name} ends it`])
    }
    const started = await client.send<CheckpointJob>(
      'POST',
      '/api/v1/checkpoints',
      {
        ...common,
        leaveRunning: flags.leaveRunning === true,
        ...(expires === undefined ? {} : { expiresInMs: parseDuration(expires) }),
      },
      { patienceMs: 10e3 },
    )
    const end = await through(client, context, flags, started)
    if (flags.json) return printJson(io, end)
    print(io, [
      `${end.checkpoint}@${end.digest}`,
      `${formatBytes(end.size ?? 0)}, of which ${formatBytes(end.added ?? 0)} were new to the swarm`,
      secondsOf(end),
    ])
  })
}

/** `shoal restore`: on the node of the daemon. */
export async function restoreCommand(
  context: Context,
  checkpoint: string,
  flags: ClientFlags & { name?: string; runtime?: string },
): Promise<void> {
  const { io } = context
  const { name, runtime } = flags
  await withClient(context, flags, async (client) => {
    const started = await client.send<CheckpointJob>(
      'POST',
      '/api/v1/restores',
      { checkpoint, ...(name === undefined ? {} : { name }), ...(runtime === undefined ? {} : { runtime }) },
      { patienceMs: 10e3 },
    )
    const end = await through(client, context, flags, started)
    if (flags.json) printJson(io, end)
    else print(io, [`${end.container} runs as process ${end.pid}`, secondsOf(end)])
  })
}

/** `shoal checkpoint ls`: those of the cluster, and what this node makes every so often. */
export async function listCommand(context: Context, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const found = await client.get<Listed[]>('/api/v1/checkpoints', { signal })
    const plans = await client.get<Schedule[]>('/api/v1/checkpoint-plans', { signal })
    if (flags.json) return printJson(io, { checkpoints: found, plans })
    const now = Date.now()
    const columns = [
      { title: 'CHECKPOINT' },
      { title: 'RUNTIME' },
      { title: 'MADE' },
      { title: 'NODE' },
      { title: 'SIZE', right: true },
      { title: 'ADDED', right: true },
      { title: 'EXPIRES' },
      { title: 'SEALED' },
    ]
    const rows = found.map((one) => [
      `${one.name}:${one.version}`,
      one.container.runtime,
      formatAgo(one.createdAt, now),
      shortId(one.node),
      formatBytes(one.size),
      formatBytes(one.added),
      one.expiresAt === undefined ? '-' : `in ${formatDuration(Math.max(0, one.expiresAt - now))}`,
      one.sealedFor === undefined ? '-' : `for ${one.sealedFor.map(shortId).join(', ')}`,
    ])
    print(io, [...table(columns, rows), ...plans.map((plan) => planLine(plan, now))])
  })
}

function planLine({ name, container, everyMs, keep, lastAt, error }: Schedule, now: number): string {
  const last = lastAt === undefined ? '' : `, last ${formatAgo(lastAt, now)}`
  return `${container} is checkpointed as ${name} every ${formatDuration(everyMs)}, ${keep} kept${last}${error === undefined ? '' : `: ${error}`}`
}

/** `shoal checkpoint inspect`. */
export async function inspectCommand(context: Context, reference: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const one = await client.get<Listed & Pick<Checkpoint, 'needs'> & { demands?: Demands }>(
      `/api/v1/checkpoints/${encodeURIComponent(reference)}`,
      {
        signal,
      },
    )
    if (flags.json) return printJson(io, one)
    const { needs, container } = one
    print(io, [
      `${one.name}:${one.version}@${one.digest}`,
      `container  ${container.name} (${container.runtime}${container.image ? `, ${container.image.reference}` : ''})`,
      `made       ${new Date(one.createdAt).toISOString()} by ${one.node}`,
      `expires    ${one.expiresAt === undefined ? 'never' : new Date(one.expiresAt).toISOString()}`,
      `size       ${formatBytes(one.size)}, ${formatBytes(one.added)} of them new with it, ${one.copies} copies in site ${one.site}`,
      `sealed     ${one.sealedFor === undefined ? 'no: every node of the cluster can open it' : `for ${one.sealedFor.join(', ')}`}`,
      `needs      ${needs.arch}, kernel ${needs.kernel}, CRIU ${needs.criu}, ${needs.oci.name} ${needs.oci.version}, cgroups ${needs.cgroups}`,
      ...(one.demands ? demandLines(one.demands) : []),
    ])
  })
}

function demandLines({ mounts, devices, namespaces, ports }: Demands): string[] {
  const all = [
    ...mounts,
    ...devices,
    ...namespaces,
    ...ports.map(({ protocol, port }) => `port ${port}/${protocol}`),
  ]
  return all.length === 0 ? [] : [`uses       ${all.join(', ')}`]
}

/** `shoal checkpoint rm`: one version, or all. */
export async function removeCommand(context: Context, reference: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const path = `/api/v1/checkpoints/${encodeURIComponent(reference)}`
    const { removed } = await client.send<{ removed: number }>('DELETE', path, undefined, { signal })
    if (flags.json) printJson(io, { removed })
    else print(io, [`removed ${removed} ${removed === 1 ? 'checkpoint' : 'checkpoints'}`])
  })
}

/** `shoal checkpoint stop`: no more of them are made; what was made stays. */
export async function stopCommand(context: Context, name: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    await client.send('DELETE', `/api/v1/checkpoint-plans/${encodeURIComponent(name)}`, undefined, { signal })
    if (flags.json) printJson(io, { stopped: name })
    else print(io, [`${name} is not made any more; shoal checkpoint rm ${name} removes what there is`])
  })
}
