import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { criuWords } from '../criu.ts'
import { unmountBelow } from '../mounts.ts'
import { aborted } from '../run.ts'
import type { DumpOptions } from '../types.ts'
import type { Place } from './prepare.ts'

const DUMP_MS = 10 * 60_000
const END_MS = 30_000

/**
 * CRIU's images of a container's processes. One that is to stop is frozen for it and killed in its freezer, since runc would forget
 * all of a container whose processes CRIU has ended. A CRIU that is killed in its midst leaves its own code in the processes,
 * so it is let come to its end whatever the signal says.
 */
export async function dump(
  place: Place,
  id: string,
  options: DumpOptions,
  signal: AbortSignal,
): Promise<void> {
  const { runc, temporary } = place
  const before = await runc.state(id, signal)
  if (!before) throw new ShoalError('NOT_FOUND', `runc has no container ${id}`)
  const { status } = before
  if (status !== 'running' && status !== 'paused')
    throw new ShoalError('RUNTIME', `${id} has no processes to dump: it is ${status}`)
  const stops = options.leave === 'stopped'
  const work = await mkdtemp(join(temporary, 'dump-'))
  const args = [
    'checkpoint',
    '--image-path',
    options.dir,
    '--work-path',
    work,
    '--file-locks',
    '--leave-running',
  ]
  if (options.tcpEstablished) args.push('--tcp-established')
  try {
    if (stops && status === 'running') await runc.call(['pause', id], { signal })
    await runc.call([...args, id], { signal: new AbortController().signal, timeoutMs: DUMP_MS })
    if (stops) await runc.kill(id, AbortSignal.timeout(END_MS))
    else if (signal.aborted) throw aborted(signal)
  } catch (error) {
    await as(place, id, status).catch(() => {})
    if (!isShoalError(error, 'RUNTIME')) throw error
    const words = await criuWords(work, 'dump.log')
    throw new ShoalError('RUNTIME', `${id} could not be dumped: ${words || error.message}`, { cause: error })
  } finally {
    await unmountBelow(work, AbortSignal.timeout(END_MS))
    await rm(work, { recursive: true, force: true })
  }
}

async function as({ runc }: Place, id: string, status: 'running' | 'paused'): Promise<void> {
  const signal = AbortSignal.timeout(END_MS)
  const now = (await runc.state(id, signal))?.status
  if (status === 'paused' && now === 'running') await runc.call(['pause', id], { signal })
  if (status === 'running' && now === 'paused') await runc.call(['resume', id], { signal })
}
