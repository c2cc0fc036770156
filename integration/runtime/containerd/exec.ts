import { randomUUID } from 'node:crypto'
import { closeSync, constants, openSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { run } from '../run.ts'
import type { ExecResult } from '../types.ts'
import { type ContainerdClient, wrapJson } from './client.ts'
import { specOf } from './workload.ts'

const OUTPUT_BYTES = 64 * 1024
const SIGKILL = 9
const CLEAN_MS = 3000
const LINGER_MS = 2000

/** Runs a program in a container as its first process would run it. */
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
  const fifo = join(place, 'output')
  const process = { containerId: id, execId: `shoal-${randomUUID()}` }
  let made = false
  let output: Output | undefined
  try {
    output = await openOutput(fifo, either)
    await client.tasks.exec(
      {
        ...process,
        stdout: fifo,
        stderr: fifo,
        spec: wrapJson('Process', { ...specOf(container).process, args, terminal: false }),
      },
      { signal: either },
    )
    made = true
    await client.tasks.start(process, { signal: either })
    const { exitStatus } = await client.tasks.wait(process, { signal: either, timeoutMs: 0 })
    await client.tasks.deleteProcess(process, { signal: either })
    made = false
    return { code: exitStatus, output: await output.end(either) }
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
    output?.close()
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

interface Output {
  /** What was written, its last 64 KiB, once everybody has closed it. @throws ABORTED */
  end(signal: AbortSignal): Promise<string>
  close(): void
}

/** A FIFO that is read here: stdout and stderr both go into it. */
async function openOutput(path: string, signal: AbortSignal): Promise<Output> {
  await run('mkfifo', ['-m', '600', path], { signal })
  // Read without waiting for a writer; our own writer keeps it from ending before the shim has opened it.
  const reader = new Socket({
    fd: openSync(path, constants.O_RDONLY | constants.O_NONBLOCK),
    writable: false,
  })
  const keeper = openSync(path, constants.O_WRONLY)
  let kept = true
  let tail: Buffer = Buffer.alloc(0)
  reader.on('data', (bytes: Buffer) => {
    tail = Buffer.concat([tail, bytes]).subarray(-OUTPUT_BYTES)
  })
  const ended = new Promise<void>((resolve) => {
    reader.on('end', resolve).on('error', () => resolve())
  })
  const letGo = (): void => {
    if (kept) closeSync(keeper)
    kept = false
  }
  return {
    async end(until) {
      letGo()
      await settled(ended, until)
      return tail.toString()
    },
    close() {
      letGo()
      reader.destroy()
    },
  }
}

/** Something that was started there may go on and hold the output open: what it says is not waited for. */
async function settled(ended: Promise<void>, signal: AbortSignal): Promise<void> {
  await Promise.race([ended, delay(LINGER_MS, undefined, { signal, ref: false }).catch(() => {})])
}
