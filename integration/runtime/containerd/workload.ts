import { isShoalError, ShoalError } from '../../../base/index.ts'
import { run } from '../run.ts'
import { uniqueCgroup, withNamespace } from '../spec.ts'
import type { OciSpec } from '../types.ts'
import type { Any, ContainerRecord } from './api.ts'
import { type ContainerdClient, unwrap, wrap, wrapJson } from './client.ts'
import { inspectImage } from './image.ts'

/** What another one may make of a container until it runs. */
export interface CreateOptions {
  client: ContainerdClient
  /** Of an image that is here and unpacked (see pullImage). */
  image: string
  id: string
  /** In place of the image's command; its entrypoint stays. */
  args?: string[]
  env?: Record<string, string>
  labels?: Record<string, string>
  /** Cores and bytes. */
  limits?: { cpu?: number; memory?: number }
  /** Path of a network namespace; without it the container has an empty one of its own. */
  netns?: string
  mounts?: { source: string; destination: string; readonly: boolean }[]
  hostname?: string
  /** Cgroup below which the container gets its own. Default: containerd's. */
  cgroupParent?: string
  snapshotter?: string
  signal: AbortSignal
}

/** For `catch`: what is not there is undefined. */
export function missing(error: unknown): undefined {
  if (!isShoalError(error, 'NOT_FOUND')) throw error
}

/** Names the file that a container's output goes to. */
export const LOG_LABEL = 'shoal.log'
const CPU_PERIOD_US = 100_000

/**
 * Makes a container of an image, with containerd's default restrictions; nothing of it runs. By `ctr`, since what an image's
 * configuration means is left to containerd's clients.
 * @throws NOT_FOUND (the image) | BUSY (the ID is taken) | USAGE (nothing to run) | RUNTIME
 */
export async function createContainer(options: CreateOptions): Promise<ContainerRecord> {
  const { client, image, id, labels, signal } = options
  const { entrypoint, command } = await inspectImage(client, image, signal)
  const args = [...entrypoint, ...(options.args ?? command)]
  if (args.length === 0) throw new ShoalError('USAGE', `${image} has no command, and none was given`)
  const taken = await client.containers.get({ id }, { signal }).catch(missing)
  if (taken) throw new ShoalError('BUSY', `there is a container ${id} already`)
  const global = ['--address', client.address, '--namespace', client.namespace]
  const flags = options.snapshotter === undefined ? [] : ['--snapshotter', options.snapshotter]
  // It would take arguments that look like its own flags for them: what is to run is said below.
  await run('ctr', [...global, 'containers', 'create', ...flags, image, id, 'none'], { signal })
  try {
    const { container } = await client.containers.get({ id }, { signal })
    const changed = {
      id,
      labels: { ...container.labels, ...labels },
      spec: wrapJson('Spec', adapted(specOf(container), args, options)),
    }
    const updateMask = { paths: ['spec', 'labels'] }
    return (await client.containers.update({ container: changed, updateMask }, { signal })).container
  } catch (error) {
    await removeRecord(client, id, AbortSignal.timeout(10_000)).catch(() => {})
    throw error
  }
}

function adapted(spec: OciSpec, args: string[], options: CreateOptions): OciSpec {
  const { env = {}, limits = {}, netns, mounts = [], hostname, cgroupParent, id } = options
  const set = (spec.process?.env ?? []).filter(
    (pair) => !Object.hasOwn(env, pair.slice(0, pair.indexOf('='))),
  )
  const resources: Record<string, unknown> = { ...spec.linux?.resources }
  if (limits.memory !== undefined) resources.memory = { limit: limits.memory }
  if (limits.cpu !== undefined) {
    resources.cpu = { quota: Math.max(1000, Math.round(limits.cpu * CPU_PERIOD_US)), period: CPU_PERIOD_US }
  }
  const cgroupsPath = cgroupParent === undefined ? spec.linux?.cgroupsPath : `${cgroupParent}/${id}`
  const made: OciSpec = {
    ...spec,
    ...(hostname === undefined ? {} : { hostname }),
    process: {
      ...spec.process,
      args,
      env: [...set, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)],
    },
    mounts: [
      ...(spec.mounts ?? []),
      ...mounts.map(({ source, destination, readonly }) => ({
        destination,
        type: 'bind',
        source,
        options: ['rbind', 'rprivate', readonly ? 'ro' : 'rw'],
      })),
    ],
    linux: {
      ...spec.linux,
      resources,
      ...(cgroupsPath === undefined ? {} : { cgroupsPath: uniqueCgroup(cgroupsPath, id) }),
    },
  }
  return netns === undefined ? made : withNamespace(made, 'network', netns)
}

export function specOf(container: ContainerRecord): OciSpec {
  return JSON.parse(
    Buffer.from(container.spec?.value ?? []).toString() || '{"ociVersion":"1.0.2"}',
  ) as OciSpec
}

export interface StartOptions {
  client: ContainerdClient
  id: string
  /** Absolute path of a file that stdout and stderr are appended to; without it they are lost. */
  log?: string
  /** CRIU's images to restore from, and where CRIU's log goes. */
  restore?: { dir: string; workDir: string }
  signal: AbortSignal
}

/**
 * Stdout and stderr appended to one file, by a logger that lives as long as they do. Of containerd's own way to a file the last
 * words of stderr may be lost: it closes both when the first of the two ends.
 */
function logger(path: string): string {
  const file = `'${path.replaceAll("'", "'\\''")}'`
  // By containerd's protocol for loggers stdout and stderr are 3 and 4, and it waits until 5 is closed.
  const script = `exec 5>&-; cat <&3 >>${file} & exec 3<&-; cat <&4 >>${file}; wait`
  return `binary:///bin/sh?-c=${encodeURIComponent(script)}`
}

/** Starts a container's first process, or restores its processes. A task that did not start is gone again. @throws BUSY (it is started) | RUNTIME */
export async function startContainer(options: StartOptions): Promise<{ pid: number }> {
  const { client, id, log, restore, signal } = options
  const { container } = await client.containers.get({ id }, { signal })
  const key = { snapshotter: container.snapshotter, key: container.snapshotKey }
  const { mounts } = await client.snapshots.mounts(key, { signal })
  if (log !== undefined && container.labels[LOG_LABEL] !== log) {
    const labels = { ...container.labels, [LOG_LABEL]: log }
    await client.containers.update(
      { container: { id, labels }, updateMask: { paths: ['labels'] } },
      { signal },
    )
  }
  const output = log === undefined ? {} : { stdout: logger(log), stderr: logger(log) }
  const own = taskOptions(container.runtime?.options ?? null, restore)
  const task = { containerId: id, rootfs: mounts, ...output, ...(own ? { options: own } : {}) }
  try {
    await client.tasks.create(task, { signal, timeoutMs: 0 })
    return await client.tasks.start({ containerId: id }, { signal, timeoutMs: 0 })
  } catch (error) {
    // BUSY: it has a task, which is another's.
    if (!isShoalError(error, 'BUSY'))
      await removeTask(client, id, AbortSignal.timeout(20_000)).catch(() => {})
    throw error
  }
}

/** A task's options stand in for the container's, so they must say again what those say. */
function taskOptions(own: Any | null, restore: StartOptions['restore']): Any | undefined {
  if (!restore) return own ?? undefined
  const kept = unwrap('containerd.runc.v1.Options', own)
  return wrap('containerd.runc.v1.Options', {
    ...kept,
    criuImagePath: restore.dir,
    criuWorkPath: restore.workDir,
  })
}

/** Resolves with the exit code when the container's first process has ended, now or long ago. @throws NOT_FOUND */
export async function waitContainer(
  client: ContainerdClient,
  id: string,
  signal: AbortSignal,
): Promise<number> {
  return (await client.tasks.wait({ containerId: id }, { signal, timeoutMs: 0 })).exitStatus
}

const KILL_MS = 15_000
const END_MS = 30_000
const SIGKILL = 9

/**
 * Ends every process of a container, without a paused one having run again, and removes the task. True if there was one.
 * @throws RUNTIME when something does not die
 */
export async function removeTask(
  client: ContainerdClient,
  id: string,
  signal: AbortSignal,
): Promise<boolean> {
  const task = { containerId: id }
  const found = await client.tasks.get(task, { signal, timeoutMs: KILL_MS }).catch(missing)
  if (!found) return false
  const { status } = found.process
  if (status === 'CREATED' && (await removeUnstarted(client, id, signal))) return true
  if (status !== 'STOPPED') {
    const ended = client.tasks.wait(task, { signal, timeoutMs: END_MS })
    ended.catch(() => {})
    // All at once while they are frozen: runc thaws the cgroup when each has its signal.
    await client.tasks
      .kill({ ...task, signal: SIGKILL, all: true }, { signal, timeoutMs: KILL_MS })
      .catch(missing)
    await ended.catch(missing)
  }
  await client.tasks.delete(task, { signal, timeoutMs: KILL_MS }).catch(missing)
  return true
}

/** Of a restore that failed there is no process: it would be waited for in vain. False when there is something to be killed first. */
async function removeUnstarted(client: ContainerdClient, id: string, signal: AbortSignal): Promise<boolean> {
  try {
    await client.tasks.delete({ containerId: id }, { signal, timeoutMs: KILL_MS })
    return true
  } catch (error) {
    if (!isShoalError(error, 'RUNTIME')) missing(error)
    return isShoalError(error, 'NOT_FOUND')
  }
}

/** The container's record and its writable layer. True if there was one. */
export async function removeRecord(
  client: ContainerdClient,
  id: string,
  signal: AbortSignal,
): Promise<boolean> {
  const found = await client.containers.get({ id }, { signal }).catch(missing)
  if (!found) return false
  const { snapshotter, snapshotKey: key } = found.container
  // Without its container a snapshot is garbage: should this be cut short here, containerd collects it.
  await client.containers.delete({ id }, { signal }).catch(missing)
  if (key !== '') await client.snapshots.remove({ snapshotter, key }, { signal }).catch(missing)
  return true
}

/** All of it, running or not. True if there was one. @throws RUNTIME when something does not die */
export async function removeContainer(
  client: ContainerdClient,
  id: string,
  signal: AbortSignal,
): Promise<boolean> {
  const had = await removeTask(client, id, signal)
  return (await removeRecord(client, id, signal)) || had
}
