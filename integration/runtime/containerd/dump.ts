import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { ShoalError } from '../../../base/index.ts'
import { criuWords } from '../criu.ts'
import { aborted } from '../run.ts'
import type { DumpOptions } from '../types.ts'
import { type ContainerdClient, wrap } from './client.ts'

/** How long a dump that nobody wants any more is waited for. */
const LET_END_MS = 30_000

/**
 * CRIU's images of a container's processes, straight into a directory: containerd's checkpoint service would make content of its own
 * of them. When the signal comes in its midst the dump is waited for, since a CRIU that is killed leaves its code in the
 * processes: only then it is known what became of the container.
 */
export async function dump(
  { client, id, dir }: { client: ContainerdClient; id: string; dir: string },
  options: DumpOptions,
  signal: AbortSignal,
): Promise<void> {
  const task = { containerId: id }
  const before = (await client.tasks.get(task, { signal })).process.status
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const workDir = await mkdtemp(join(dir, 'dump-'))
  try {
    await letEnd(signal, (unending) =>
      client.tasks.checkpoint(
        {
          ...task,
          options: wrap('containerd.runc.v1.CheckpointOptions', {
            exit: options.leave === 'stopped',
            openTcp: options.tcpEstablished ?? false,
            fileLocks: true,
            cgroupsMode: 'ignore',
            imagePath: options.dir,
            workPath: workDir,
          }),
        },
        { signal: unending, timeoutMs: 0 },
      ),
    )
    // Done is done: who asked must know, whatever has become of the signal.
    if (options.leave === 'stopped')
      await client.tasks.wait(task, { signal: AbortSignal.timeout(LET_END_MS) })
  } catch (error) {
    const { code, message } = error as ShoalError
    if (code !== 'RUNTIME') throw error
    const words = await criuWords(workDir, 'dump.log')
    throw new ShoalError('RUNTIME', `${id} could not be dumped: ${words || message}`, { cause: error })
  } finally {
    if (before === 'PAUSED') await stayPaused(client, id).catch(() => {})
    await rm(workDir, { recursive: true, force: true })
  }
}

/** CRIU thaws what it dumps; it freezes again what was frozen, but not when it fails in the midst. */
async function stayPaused(client: ContainerdClient, id: string): Promise<void> {
  const signal = AbortSignal.timeout(10_000)
  const { process } = await client.tasks.get({ containerId: id }, { signal })
  if (process.status === 'RUNNING') await client.tasks.pause({ containerId: id }, { signal })
}

/** When the signal comes, the work may still end well; after a time it is given up. */
async function letEnd<T>(signal: AbortSignal, work: (unending: AbortSignal) => Promise<T>): Promise<T> {
  if (signal.aborted) throw aborted(signal)
  const giveUp = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const late = (): void => {
    timer = setTimeout(() => giveUp.abort(signal.reason), LET_END_MS)
  }
  signal.addEventListener('abort', late, { once: true })
  try {
    return await work(giveUp.signal)
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', late)
  }
}
