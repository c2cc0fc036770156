import { runCommandLine } from './program.ts'

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // The second one does not wait for anything.
    if (abort.signal.aborted) process.exit(1)
    abort.abort()
  })
}
// `shoal images | head` ends the pipe early: nobody is interested in an error then.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))

process.exitCode = await runCommandLine(process.argv.slice(2), {
  io: { out: process.stdout, err: process.stderr },
  env: process.env,
  signal: abort.signal,
})
