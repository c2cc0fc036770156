import { randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import type { ExecResult } from '../types.ts'
import { type ContainerdClient, wrapJson } from './client.ts'
import { specOf } from './workload.ts'

const OUTPUT_BYTES = 64 * 1024
const SIGKILL = 9
const CLEAN_MS = 10_000

/** Runs a program in a container as its first process would run it. The output comes by a file: containerd's shim copies it there. */
export async function exec(
  { client, id, dir }: { client: ContainerdClient; id: string; dir: string },
  args: string[],
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<ExecResult> {
  const late = AbortSignal.timeout(timeoutMs)
  const either = AbortSignal.any([signal, late])
  const { container } = await client.containers.get({ id }, { signal: either })
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const place = await mkdtemp(join(dir, 'exec-'))
  const output = `file://${join(place, 'output')}`
  const process = { containerId: id, execId: `shoal-${randomUUID()}` }
  let made = false
  try {
    await client.tasks.exec(
      {
        ...process,
        stdout: output,
        stderr: output,
        spec: wrapJson('Process', { ...specOf(container).process, args, terminal: false }),
      },
      { signal: either },
    )
    made = true
    await client.tasks.start(process, { signal: either })
    const { exitStatus } = await client.tasks.wait(process, { signal: either, timeoutMs: 0 })
    // Returns when everything that was written has been copied.
    await client.tasks.deleteProcess(process, { signal: either })
    made = false
    return { code: exitStatus, output: await lastOf(join(place, 'output')) }
  } catch (error) {
    if (late.aborted && !signal.aborted) {
      throw new ShoalError('TIMEOUT', `${args[0]} in ${id} did not end within ${timeoutMs / 1000} s`, {
        cause: error,
      })
    }
    const code = made && isShoalError(error, 'RUNTIME') ? notStarted(error.message) : undefined
    if (code !== undefined) return { code, output: (error as ShoalError).message }
    throw error
  } finally {
    if (made) await end(client, process)
    await rm(place, { recursive: true, force: true })
  }
}

/** As a shell has it: 127 when there is no such program, 126 when it cannot be run. */
function notStarted(message: string): number | undefined {
  if (/executable file not found|no such file or directory/.test(message)) return 127
  return /permission denied|exec format error|is a directory/.test(message) ? 126 : undefined
}

async function end(
  client: ContainerdClient,
  process: { containerId: string; execId: string },
): Promise<void> {
  const signal = AbortSignal.timeout(CLEAN_MS)
  const ended = client.tasks.wait(process, { signal })
  ended.catch(() => {})
  await client.tasks.kill({ ...process, signal: SIGKILL }, { signal }).catch(() => {})
  await ended.catch(() => {})
  await client.tasks.deleteProcess(process, { signal }).catch(() => {})
}

async function lastOf(path: string): Promise<string> {
  const file = await open(path, 'r').catch(() => undefined)
  if (!file) return ''
  try {
    const { size } = await file.stat()
    const bytes = Buffer.alloc(Math.min(size, OUTPUT_BYTES))
    const { bytesRead } = await file.read(bytes, 0, bytes.length, size - bytes.length)
    return bytes.toString('utf8', 0, bytesRead)
  } finally {
    await file.close()
  }
}
