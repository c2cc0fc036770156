import { execFile } from 'node:child_process'
import { ShoalError } from '../../base/index.ts'
import type { Container, Runtime } from '../runtime/types.ts'
import type { HealthCheck } from './types.ts'

const FIRST_MS = 20
const MOST_MS = 500
/** How long one try may take. */
const TRY_MS = 3000

/**
 * Resolves once the restored container is well: it runs, and what it was asked answers. A command runs in the container; HTTP and TCP
 * are tried in its network namespace, so that `127.0.0.1` is the container itself.
 * @throws UNFIT when it is not within the time, with what the last try said
 */
export async function untilHealthy(request: {
  container: string
  runtime: Runtime
  check: HealthCheck | undefined
  withinMs: number
  signal: AbortSignal
}): Promise<void> {
  const { withinMs, signal } = request
  let last = ''
  for (let waitMs = FIRST_MS, until = Date.now() + withinMs; ; waitMs = Math.min(waitMs * 2, MOST_MS)) {
    signal.throwIfAborted()
    const tried = await attempt(request).catch((error: Error) => ({
      well: false,
      final: false,
      said: error.message,
    }))
    if (tried.well) return
    last = tried.said
    if (tried.final || Date.now() + waitMs > until) throw new ShoalError('UNFIT', last)
    await new Promise((resolve) => setTimeout(resolve, waitMs))
  }
}

interface Tried {
  well: boolean
  /** It will not get better. */
  final: boolean
  said: string
}

async function attempt({
  container,
  runtime,
  check,
  signal,
}: Parameters<typeof untilHealthy>[0]): Promise<Tried> {
  const found = await runtime.inspect(container, signal)
  if (found.state !== 'running' || found.pid === undefined) {
    return { well: false, final: found.state === 'stopped', said: `the container is ${found.state}` }
  }
  if (check === undefined) return { well: true, final: true, said: '' }
  if (check.kind === 'exec') {
    const { code, output } = await runtime.exec(container, check.args, { timeoutMs: TRY_MS, signal })
    return { well: code === 0, final: false, said: `${check.args[0]} ended with ${code}: ${tail(output)}` }
  }
  return { final: false, ...(await probe(found, check, signal)) }
}

/** Run as a program of its own, since a process cannot enter a network namespace for one connection. */
const PROBE = `
const [kind, a, b] = process.argv.slice(1)
const fail = (error) => { console.error(error.message); process.exit(1) }
if (kind === 'http') {
  require('node:http').get(a, (res) => {
    if (res.statusCode < 400) process.exit(0)
    fail(new Error('it answers ' + res.statusCode))
  }).on('error', fail)
} else {
  require('node:net').connect(Number(b), a, () => process.exit(0)).on('error', fail)
}
`

function probe(
  { pid, spec }: Container,
  check: Exclude<HealthCheck, { kind: 'exec' }>,
  signal: AbortSignal,
): Promise<{ well: boolean; said: string }> {
  const own = spec.linux?.namespaces?.some(({ type }) => type === 'network') ?? false
  const what = check.kind === 'http' ? ['http', check.url] : ['tcp', check.host, `${check.port}`]
  const node = [process.execPath, '-e', PROBE, '--', ...what]
  const [command = '', ...args] = own ? ['nsenter', `--net=/proc/${pid}/ns/net`, ...node] : node
  return new Promise((resolve) => {
    execFile(command, args, { timeout: TRY_MS, signal, env: {} }, (error, _stdout, stderr) => {
      resolve({ well: error === null, said: tail(stderr) || 'no answer' })
    })
  })
}

function tail(text: string): string {
  return text.trim().split('\n').slice(-2).join('; ').slice(-300)
}
