import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { ShoalError } from '../../base/index.ts'

export interface RunOptions {
  /** Name of the network namespace to run in; the machine's own without it. */
  netns?: string
  env?: Record<string, string>
  cwd?: string
  input?: string
  /** The process is killed after this many ms; default 120 s. */
  timeoutMs?: number
  signal?: AbortSignal
  /** Resolve on a non-zero exit code, too. */
  mayFail?: boolean
}

export interface RunResult {
  code: number
  stdout: string
  stderr: string
}

/**
 * The command line that runs `command` in a network namespace. nsenter, because `ip netns exec` mounts a new /sys without
 * the cgroups. It execs, so the process has the pid that was spawned.
 */
export function inside(netns: string | undefined, command: string[]): string[] {
  return netns === undefined ? command : ['nsenter', `--net=/run/netns/${netns}`, '--', ...command]
}

/** Runs a command to its end. @throws INTERNAL when it fails, with what it said; TIMEOUT */
export function run(command: string[], options: RunOptions = {}): Promise<RunResult> {
  const [file = '', ...args] = inside(options.netns, command)
  const timeoutMs = options.timeoutMs ?? 120_000
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      env: { ...process.env, ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.signal === undefined ? {} : { signal: options.signal, killSignal: 'SIGKILL' as const }),
    })
    let stdout = ''
    let stderr = ''
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, timeoutMs)
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
    child.on('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      if (code === 0 || (options.mayFail && !late)) return resolve({ code: code ?? -1, stdout, stderr })
      const said = (stderr || stdout).trim().slice(-2000)
      const how = late ? `took more than ${timeoutMs} ms` : `failed (${code})`
      reject(
        new ShoalError(late ? 'TIMEOUT' : 'INTERNAL', `${command.join(' ').slice(0, 300)} ${how}: ${said}`),
      )
    })
  })
}

/** A process that goes on running; its output goes to a file. */
export interface Service {
  pid: number
  child: ChildProcess
  log: string
  /** Resolves when it has ended, with its exit code or signal. */
  ended: Promise<number | NodeJS.Signals>
  running(): boolean
  kill(signal: NodeJS.Signals): void
  /** SIGTERM, and SIGKILL after `patienceMs`. Returns ms until it had ended. */
  stop(patienceMs?: number): Promise<number>
}

/** @throws INTERNAL when it cannot be started */
export function start(command: string[], options: RunOptions & { log: string }): Service {
  const [file = '', ...args] = inside(options.netns, command)
  const out = openSync(options.log, 'a')
  const child = spawn(file, args, {
    env: { ...process.env, ...options.env },
    stdio: ['ignore', out, out],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
  closeSync(out)
  let alive = true
  const ended = new Promise<number | NodeJS.Signals>((resolve) => {
    child.on('error', () => resolve(-1))
    child.on('exit', (code, signal) => resolve(signal ?? code ?? -1))
  })
  void ended.then(() => {
    alive = false
  })
  if (child.pid === undefined) throw new ShoalError('INTERNAL', `cannot start ${file}`)
  return {
    pid: child.pid,
    child,
    log: options.log,
    ended,
    running: () => alive,
    kill: (signal) => void (alive && child.kill(signal)),
    async stop(patienceMs = 8000) {
      const from = performance.now()
      if (!alive) return 0
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), patienceMs)
      await ended
      clearTimeout(timer)
      return performance.now() - from
    },
  }
}

/** Calls `test` until it returns something true. @throws TIMEOUT */
export async function until<T>(
  what: string,
  test: () => Promise<T> | T,
  options: { timeoutMs?: number; everyMs?: number } = {},
): Promise<NonNullable<T>> {
  const timeoutMs = options.timeoutMs ?? 30_000
  const end = performance.now() + timeoutMs
  for (;;) {
    const value = await test()
    if (value) return value as NonNullable<T>
    if (performance.now() > end) throw new ShoalError('TIMEOUT', `${what}: not within ${timeoutMs} ms`)
    await sleep(options.everyMs ?? 150)
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
