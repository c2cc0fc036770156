import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isShoalError } from '../../../base/index.ts'
import { ended, plainEnvironment } from '../run.ts'
import type { ExecResult } from '../types.ts'
import type { Runc } from './command.ts'

const OUTPUT_BYTES = 64 * 1024

/** Runs a program in a container as its first process would run it. What does not end in time is killed. */
export async function exec(
  { runc, temporary }: { runc: Runc; temporary: string },
  id: string,
  args: string[],
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<ExecResult> {
  const pidFile = join(temporary, `exec-${randomUUID()}`)
  const child = spawn(runc.command, [...runc.global, 'exec', '--pid-file', pidFile, id, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: plainEnvironment(),
  })
  let output = Buffer.alloc(0)
  const keep = (part: Buffer): void => {
    output = Buffer.concat([output, part]).subarray(-OUTPUT_BYTES)
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  try {
    const code = await ended(child, 'runc', { signal, timeoutMs })
    return { code, output: output.toString('utf8') }
  } catch (error) {
    // runc is gone by now, what it ran is not.
    const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''))
    if (pid > 1 && isShoalError(error, 'TIMEOUT', 'ABORTED')) kill(pid)
    throw error
  } finally {
    await rm(pidFile, { force: true })
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // Gone.
  }
}
