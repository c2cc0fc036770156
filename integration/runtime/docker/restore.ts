import { mkdir, rm } from 'node:fs/promises'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { aborted } from '../run.ts'
import type { DockerApi } from './api.ts'
import { checkpointDir, checkpointName, linkFiles, watchRestore } from './checkpoints.ts'
import { type DockerPlace, kill } from './dump.ts'
import { killAll } from './processes.ts'

/** What it is to do when the container ends, from its start on: until then docker must not start it by itself. */
export const RESTART_LABEL = 'shoal.restart-policy'
const RESTORE_MS = 10 * 60_000
const END_MS = 30_000
/** CRIU's log of a restore that failed is there for moments: where it was missed, the restore is tried again for it. */
const TRIES = 4

/** Restores a container that was never started from CRIU's images in `dir`. @throws RUNTIME with CRIU's own words */
export async function restoreFrom(
  place: DockerPlace,
  id: string,
  dir: string,
  signal: AbortSignal,
): Promise<{ pid: number }> {
  const name = checkpointName()
  const kept = checkpointDir(await place.root(signal), id, name)
  try {
    await mkdir(kept, { recursive: true, mode: 0o700 })
    await linkFiles(dir, kept)
    for (let tries = 1, log: string | undefined; ; tries++) {
      const watch = watchRestore(id, log)
      try {
        return await restore(place, id, name, signal)
      } catch (error) {
        const words = await watch.words()
        await end(place, id).catch(() => {})
        if (!isShoalError(error, 'RUNTIME', 'BUSY', 'NOT_FOUND')) throw error
        log = /criu failed[\s\S]*log file: (\S*restore\.log)/.exec(error.message)?.[1]
        if (words === '' && log !== undefined && tries < TRIES) continue
        throw new ShoalError('RUNTIME', `${id} could not be restored: ${words || error.message}`, {
          cause: error,
        })
      } finally {
        watch.close()
      }
    }
  } finally {
    await rm(kept, { recursive: true, force: true })
  }
}

async function restore(
  place: DockerPlace,
  id: string,
  checkpoint: string,
  signal: AbortSignal,
): Promise<{ pid: number }> {
  const { api } = place
  await started(start(api, id, checkpoint), signal)
  const { Config } = await place.inspect(id, signal)
  const policy = JSON.parse(Config.Labels?.[RESTART_LABEL] ?? '{}') as { Name?: string }
  if (policy.Name && policy.Name !== 'no')
    await api(signal, (docker) => docker.getContainer(id).update({ RestartPolicy: policy }))
  const { State } = await place.inspect(id, signal)
  if (State.Status !== 'running')
    throw new ShoalError('RUNTIME', `it ended at once: ${State.Error || State.Status}`)
  return { pid: State.Pid }
}

/** Nothing of a half restored container may go on. */
async function end(place: DockerPlace, id: string): Promise<void> {
  const signal = AbortSignal.timeout(END_MS)
  const { State } = await place.inspect(id, signal)
  if (!['running', 'paused', 'restarting'].includes(State.Status)) return
  await killAll(State.Pid)
  await kill(place.api, id, signal).catch(() => {})
}

/** Docker goes on with it whoever waits. */
async function start(api: DockerApi, id: string, checkpoint: string): Promise<void> {
  const call: Parameters<DockerApi>[1] = (docker) =>
    docker.getContainer(id).start({ _query: { checkpoint }, _body: {} })
  await api(new AbortController().signal, call, RESTORE_MS).catch((error: unknown) => {
    const already = isShoalError(error) && error.details?.statusCode === 304
    if (!already) throw error
  })
}

async function started(call: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const gone = Promise.withResolvers<never>()
  const onAbort = (): void => void setTimeout(() => gone.reject(aborted(signal)), END_MS).unref()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    await Promise.race([call, gone.promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
  if (signal.aborted) throw aborted(signal)
}
