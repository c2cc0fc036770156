import { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import type { ExecInspectInfo } from 'dockerode'
import { ShoalError } from '../../../base/index.ts'
import { aborted } from '../run.ts'
import type { ExecResult } from '../types.ts'
import type { DockerApi } from './api.ts'

const OUTPUT_BYTES = 64 * 1024
const ASK_MS = 10_000

/** Runs a program in a container as its first process would run it. What does not end in time is killed. */
export async function exec(
  api: DockerApi,
  id: string,
  args: string[],
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<ExecResult> {
  const late = AbortSignal.timeout(timeoutMs)
  const either = AbortSignal.any([signal, late])
  const made = await api(signal, (docker) =>
    docker.getContainer(id).exec({ AttachStdout: true, AttachStderr: true, Cmd: args }),
  )
  try {
    let output = Buffer.alloc(0)
    const last = new Writable({
      write(piece: Buffer, _, done) {
        output = Buffer.concat([output, piece]).subarray(-OUTPUT_BYTES)
        done()
      },
    })
    const start: Parameters<typeof made.start>[0] = { Detach: false, Tty: false }
    await api(
      either,
      async (docker) => {
        const said = await docker.getExec(made.id).start(start)
        docker.modem.demuxStream(said, last, last)
        await finished(said, { writable: false })
      },
      timeoutMs,
    )
    const { ExitCode } = await inspect(api, made.id, signal)
    return { code: ExitCode ?? -1, output: output.toString('utf8') }
  } catch (error) {
    await end(api, made.id)
    if (signal.aborted) throw aborted(signal)
    if (!late.aborted) throw error
    const why = `${args[0]} in ${id} did not end within ${timeoutMs / 1000} s`
    throw new ShoalError('TIMEOUT', why, { cause: error })
  }
}

async function end(api: DockerApi, id: string): Promise<void> {
  const signal = AbortSignal.timeout(ASK_MS)
  const found = await inspect(api, id, signal).catch(() => {})
  if (!found?.Running || found.Pid <= 1) return
  try {
    process.kill(found.Pid, 'SIGKILL')
  } catch {
    // Gone.
  }
}

function inspect(api: DockerApi, id: string, signal: AbortSignal): Promise<ExecInspectInfo> {
  return api(signal, (docker) => docker.getExec(id).inspect())
}
