import { type ChildProcess, spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Runs test files through `node --test` and ends with one line that sums them up. Files below test/e2e build networks and
 * start runtimes: they come last, one at a time. Arguments choose files by a part of their path: `npm test -- scheduler`.
 */
const ROOT = fileURLToPath(new URL('..', import.meta.url))

interface Counts {
  passed: number
  failed: number
  skipped: number
}

let current: ChildProcess | undefined

function runFiles(files: string[], concurrency: number): Promise<Counts> {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 }
  const args = ['--test', '--test-reporter=spec', `--test-concurrency=${concurrency}`, ...files]
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] })
    current = child
    let rest = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      process.stdout.write(text)
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) count(line, counts)
    })
    child.on('close', (code) => {
      // A crash of the runner itself must not look like a success.
      if (code !== 0 && counts.failed === 0) counts.failed++
      resolve(counts)
    })
  })
}

/** The reporter's last lines: `ℹ pass 12`. */
function count(line: string, counts: Counts): void {
  const match = /^ℹ (pass|fail|cancelled|skipped|todo) (\d+)$/.exec(stripColours(line))
  const number = Number(match?.[2] ?? 0)
  if (match?.[1] === 'pass') counts.passed += number
  else if (match?.[1] === 'fail' || match?.[1] === 'cancelled') counts.failed += number
  else if (match) counts.skipped += number
}

function stripColours(line: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
  return line.replace(/\u001b\[[0-9;]*m/g, '')
}

const wanted = process.argv.slice(2)
const files = globSync('test/**/*.test.ts', { cwd: ROOT })
  .map((file) => relative(ROOT, `${ROOT}${file}`))
  .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)))
  .sort()
if (files.length === 0) {
  process.stderr.write(`no test file matches ${wanted.join(' ')}\n`)
  process.exit(2)
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    current?.kill(signal)
    process.exitCode = 130
  })
}

const slow = files.filter((file) => file.startsWith('test/e2e/'))
const quick = files.filter((file) => !slow.includes(file))
const total: Counts = { passed: 0, failed: 0, skipped: 0 }
for (const [group, concurrency] of [
  [quick, 2],
  [slow, 1],
] as const) {
  if (group.length === 0) continue
  const counts = await runFiles(group, concurrency)
  for (const key of ['passed', 'failed', 'skipped'] as const) total[key] += counts[key]
}

// In CI everything that a test could need was installed: what was skipped was not proved.
if (process.env.CI === 'true') {
  total.failed += total.skipped
  total.skipped = 0
}
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : ''
process.stdout.write(`${total.passed} passed, ${total.failed} failed${skipped}\n`)
process.exitCode = total.failed > 0 ? 1 : process.exitCode
