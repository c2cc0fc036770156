import { type ChildProcess, spawn } from 'node:child_process'
import { ShoalError } from '../../base/index.ts'

export interface RunOptions {
  signal: AbortSignal
  /** ms. Default a minute. */
  timeoutMs?: number
  cwd?: string
  /** Fails unless the exit code is one of them. Default only 0. */
  ok?: readonly number[]
}

export interface Ran {
  code: number
  stdout: string
  stderr: string
}

const KEEP = 8 * 1024 * 1024
const WORDS = 64 * 1024

/**
 * Runs a program to its end, without a shell. It is killed when the signal ends or the time is up.
 * @throws RUNTIME with what it said last, TIMEOUT, ABORTED
 */
export async function run(command: string, args: readonly string[], options: RunOptions): Promise<Ran> {
  const { signal, timeoutMs = 60_000, ok = [0] } = options
  if (signal.aborted) throw aborted(signal)
  const child = spawn(command, args, {
    ...(options.cwd ? { cwd: options.cwd } : {}),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: plainEnvironment(),
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    if (stdout.length < KEEP) stdout += part
  })
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    stderr = (stderr + part).slice(-WORDS)
  })
  const end = await ended(child, command, { signal, timeoutMs })
  if (!ok.includes(end)) throw failed(command, args, end, stderr || stdout)
  return { code: end, stdout, stderr }
}

/** Resolves to the exit code once the child and its pipes are closed; kills it when the signal ends or the time is up. */
export function ended(
  child: ChildProcess,
  command: string,
  { signal, timeoutMs }: { signal: AbortSignal; timeoutMs?: number },
): Promise<number> {
  return new Promise((resolve, reject) => {
    let why: ShoalError | undefined
    const stop = (error: ShoalError): void => {
      why ??= error
      child.kill('SIGKILL')
      // A grandchild may hold the pipes open for ever.
      child.stdout?.destroy()
      child.stderr?.destroy()
    }
    const onAbort = (): void => stop(aborted(signal))
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(
            () => stop(new ShoalError('TIMEOUT', `${command} did not end within ${timeoutMs / 1000} s`)),
            timeoutMs,
          )
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
    }
    child.once('error', (cause) => {
      done()
      const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT'
      reject(
        new ShoalError('RUNTIME', missing ? `${command} is not installed` : `${command} does not start`, {
          cause,
        }),
      )
    })
    child.once('close', (code, killed) => {
      done()
      if (why) reject(why)
      else if (code === null)
        reject(new ShoalError('RUNTIME', `${command} was killed by ${killed ?? 'a signal'}`))
      else resolve(code)
    })
  })
}

/** What a program's end says, for people: its last lines. */
export function failed(command: string, args: readonly string[], code: number, said: string): ShoalError {
  const words = lastLines(said)
  return new ShoalError('RUNTIME', `${command} failed: ${words || `exit code ${code}`}`, {
    details: { command: [command, ...args].join(' ').slice(0, 500), code },
  })
}

export function lastLines(text: string, count = 3, max = 600): string {
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
  return lines.slice(-count).join('; ').slice(-max)
}

/** Messages are matched and shown: they must be in one language. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, LC_ALL: 'C' }
}

export function aborted(signal: AbortSignal): ShoalError {
  return signal.reason instanceof ShoalError
    ? signal.reason
    : new ShoalError('ABORTED', 'aborted', { cause: signal.reason })
}
