import { PassThrough } from 'node:stream'
import { runCommandLine } from '../../cli/program.ts'

/** Runs a command line in this process, with what it printed. */
export async function shoal(
  args: string[],
  options: { env?: Record<string, string>; signal?: AbortSignal; tty?: boolean } = {},
) {
  const out = new PassThrough()
  const err = Object.assign(new PassThrough(), { isTTY: options.tty ?? false, columns: 60, rows: 12 })
  const status = await runCommandLine(args, {
    io: { out, err },
    env: { HOME: '/nonexistent', ...options.env },
    signal: options.signal ?? new AbortController().signal,
  })
  return { status, out: String(out.read() ?? ''), err: String(err.read() ?? '') }
}
