import { spawn } from 'node:child_process'
import { ended, failed, plainEnvironment } from '../../runtime/run.ts'

const TIMEOUT_MS = 60e3

/** Runs a program that reads its orders from stdin and from the environment, as CNI plugins do. @throws RUNTIME | TIMEOUT | ABORTED */
export async function command(
  file: string,
  args: string[],
  options: { input?: string; env?: Record<string, string>; signal: AbortSignal },
): Promise<string> {
  options.signal.throwIfAborted()
  const child = spawn(file, args, {
    env: { ...plainEnvironment(), ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // It may end before it has read all.
  child.stdin.on('error', () => {})
  child.stdin.end(options.input ?? '')
  const code = await ended(child, file, { signal: options.signal, timeoutMs: TIMEOUT_MS })
  // A CNI plugin tells its error on stdout.
  if (code !== 0) throw failed(file, args, code, stderr || stdout)
  return stdout
}
