import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { wordsIn } from '../criu.ts'
import { aborted } from '../run.ts'
import type { DumpOptions } from '../types.ts'
import type { DockerApi } from './api.ts'
import { checkpointDir, checkpointName, moveFiles } from './checkpoints.ts'
import { bundleOf, type Inspected } from './container.ts'
import { killAll } from './processes.ts'

const DUMP_MS = 10 * 60_000
const END_MS = 30_000
const AGAIN_MS = 250
const MOST_TRIES = 40

export interface DockerPlace {
  api: DockerApi
  /** Docker's data root. */
  root(signal: AbortSignal): Promise<string>
  inspect(id: string, signal: AbortSignal): Promise<Inspected>
}

/**
 * CRIU's images of a container's processes, by way of where docker keeps checkpoints. One that is to stop is frozen for it and
 * killed in its freezer, so that docker takes it for one that was stopped by somebody and starts it not again. Docker goes on with a
 * checkpoint whoever waits for it, so it is waited for whatever the signal says. It has no option for established TCP connections:
 * where there are some, CRIU refuses.
 */
export async function dump(
  place: DockerPlace,
  id: string,
  options: DumpOptions,
  signal: AbortSignal,
): Promise<void> {
  const { api } = place
  const { State, HostConfig } = await place.inspect(id, signal)
  const status = State.Status
  if (status !== 'running' && status !== 'paused')
    throw new ShoalError('RUNTIME', `${id} has no processes to dump: it is ${status}`)
  await readdir(options.dir).catch((cause) => {
    throw new ShoalError('RUNTIME', `${options.dir} is no directory for CRIU’s images`, { cause })
  })
  const root = await place.root(signal)
  const stops = options.leave === 'stopped'
  try {
    if (stops && status === 'running') await turn(api, id, 'pause', signal)
    await checkpoint(api, root, id, options.dir)
    if (stops) await stop(place, id, State.Pid, HostConfig.AutoRemove ?? false)
    else if (signal.aborted) throw aborted(signal)
  } catch (error) {
    await restore(place, id, status).catch(() => {})
    if (!isShoalError(error, 'RUNTIME')) throw error
    const bundle = await bundleOf(State.Pid)
    const words = bundle && (await wordsIn(join(bundle, 'criu-dump.log')))
    throw new ShoalError('RUNTIME', `${id} could not be dumped: ${words || error.message}`, { cause: error })
  }
}

/**
 * containerd puts the container's configuration into its content with each checkpoint, and fails where that is there of the last one: until
 * it is collected as garbage, which takes a second or so.
 */
async function checkpoint(api: DockerApi, root: string, id: string, dir: string): Promise<void> {
  const signal = AbortSignal.timeout(DUMP_MS)
  for (let tries = 1; ; tries++) {
    const name = checkpointName()
    const kept = checkpointDir(root, id, name)
    try {
      const what = { CheckpointID: name, Exit: false }
      const create: Parameters<DockerApi>[1] = (docker) => docker.getContainer(id).createCheckpoint(what)
      await api(signal, create, DUMP_MS)
      return await moveFiles(kept, dir)
    } catch (error) {
      const again = isShoalError(error, 'RUNTIME') && /content sha256:\w+: already exists/.test(error.message)
      if (!again || tries === MOST_TRIES) throw error
      await setTimeout(AGAIN_MS)
    } finally {
      await rm(kept, { recursive: true, force: true })
    }
  }
}

/** Returns when it has ended. */
async function stop(place: DockerPlace, id: string, pid: number, autoRemove: boolean): Promise<void> {
  const signal = AbortSignal.timeout(END_MS)
  await killAll(pid)
  await kill(place.api, id, signal).catch((error) => {
    // It may have ended just now.
    if (!isShoalError(error, 'NOT_FOUND', 'BUSY')) throw error
  })
  for (;;) {
    const now = await place.inspect(id, signal).catch((error: unknown) => {
      if (!autoRemove || !isShoalError(error, 'NOT_FOUND')) throw error
    })
    if (!now || !['running', 'paused'].includes(now.State.Status)) return
    await setTimeout(20, undefined, { signal })
  }
}

async function restore(place: DockerPlace, id: string, status: 'running' | 'paused'): Promise<void> {
  const signal = AbortSignal.timeout(END_MS)
  const now = (await place.inspect(id, signal)).State.Status
  if (status === 'paused' && now === 'running') await turn(place.api, id, 'pause', signal)
  if (status === 'running' && now === 'paused') await turn(place.api, id, 'unpause', signal)
}

export async function turn(
  api: DockerApi,
  id: string,
  to: 'pause' | 'unpause',
  signal: AbortSignal,
): Promise<void> {
  await api(signal, (docker) => docker.getContainer(id)[to]())
}

export async function kill(api: DockerApi, id: string, signal: AbortSignal): Promise<void> {
  await api(signal, (docker) => docker.getContainer(id).kill({ signal: 'SIGKILL' }))
}
