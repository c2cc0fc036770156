import type { IncomingMessage } from 'node:http'
import { ShoalError } from '../../../base/index.ts'
import { aborted } from '../run.ts'
import type { ExecResult } from '../types.ts'
import type { DockerApi } from './api.ts'

const OUTPUT_BYTES = 64 * 1024
const HEADER = 8
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
  const body = { AttachStdout: true, AttachStderr: true, Cmd: args }
  const { Id } = await api.call<{ Id: string }>('POST', `/containers/${id}/exec`, { signal, body })
  try {
    const start = { Detach: false, Tty: false }
    const response = await api.stream('POST', `/exec/${Id}/start`, { signal: either, body: start, timeoutMs })
    const output = await readFrames(response)
    // An answer that was cut off looks like one that has ended.
    if (either.aborted) throw aborted(either)
    const { ExitCode } = await api.call<{ ExitCode: number | null }>('GET', `/exec/${Id}/json`, { signal })
    return { code: ExitCode ?? -1, output: output.toString('utf8') }
  } catch (error) {
    await end(api, Id)
    if (signal.aborted) throw aborted(signal)
    if (!late.aborted) throw error
    const why = `${args[0]} in ${id} did not end within ${timeoutMs / 1000} s`
    throw new ShoalError('TIMEOUT', why, { cause: error })
  }
}

async function end(api: DockerApi, id: string): Promise<void> {
  const signal = AbortSignal.timeout(ASK_MS)
  const found = await api
    .call<{ Running: boolean; Pid: number }>('GET', `/exec/${id}/json`, { signal })
    .catch(() => {})
  if (!found?.Running || found.Pid <= 1) return
  try {
    process.kill(found.Pid, 'SIGKILL')
  } catch {
    // Gone.
  }
}

/** The last of what both streams said: each piece comes behind a header of 8 bytes, the last four of which are its length. */
async function readFrames(response: IncomingMessage): Promise<Buffer> {
  let rest = Buffer.alloc(0)
  let left = 0
  let output = Buffer.alloc(0)
  for await (const part of response as AsyncIterable<Buffer>) {
    rest = Buffer.concat([rest, part])
    while (rest.length > 0) {
      if (left === 0) {
        if (rest.length < HEADER) break
        left = rest.readUInt32BE(4)
        rest = rest.subarray(HEADER)
        continue
      }
      const piece = rest.subarray(0, left)
      output = Buffer.concat([output, piece]).subarray(-OUTPUT_BYTES)
      left -= piece.length
      rest = rest.subarray(piece.length)
    }
  }
  return output
}
