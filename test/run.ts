import { type ChildProcess, spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Runs test files through `node --test`, a process each, and ends with one line that sums them up. Files below test/e2e build
 * networks and start runtimes: they come last, one at a time. A file that failed is run once more at the end, alone: the machine
 * is shared, and only what fails twice is a failure. What passed only then is named at the end, so that it is looked into.
 * Arguments choose files by a part of their path: `npm test -- scheduler`.
 */
const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** No file takes half as long; one that hangs must not hold up the others. */
const FILE_MS = 8 * 60_000

interface Counts {
  passed: number
  failed: number
  skipped: number
}

interface Ran extends Counts {
  file: string
  seconds: number
}

const children = new Set<ChildProcess>()

/** Runs one file and prints all that it says at its end, so that files side by side do not mix. */
function runFile(file: string): Promise<Ran> {
  const startedAt = Date.now()
  const ran: Ran = { file, seconds: 0, passed: 0, failed: 0, skipped: 0 }
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--test', '--test-reporter=spec', file], {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.add(child)
    const said: Buffer[] = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes: Buffer) => said.push(bytes))
    let late = false
    const deadline = setTimeout(() => {
      late = true
      child.kill('SIGTERM')
      setTimeout(() => child.kill('SIGKILL'), 5000).unref()
    }, FILE_MS)
    child.on('close', (code) => {
      clearTimeout(deadline)
      children.delete(child)
      const text = Buffer.concat(said).toString()
      for (const line of text.split('\n')) count(line, ran)
      ran.seconds = (Date.now() - startedAt) / 1000
      // A crash of the runner itself must not look like a success, nor a file in which nothing ran.
      if (ran.failed === 0 && (code !== 0 || late || ran.passed + ran.skipped === 0)) ran.failed++
      process.stdout.write(
        `\n== ${file} (${ran.seconds.toFixed(1)} s${late ? ', ended: too late' : ''})\n${text}`,
      )
      resolve(ran)
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

/** Runs the files, so many at a time. */
async function runFiles(files: string[], atOnce: number): Promise<Ran[]> {
  const waiting = [...files]
  const done: Ran[] = []
  const lane = async (): Promise<void> => {
    for (let file = waiting.shift(); file !== undefined && !stopped; file = waiting.shift()) {
      done.push(await runFile(file))
    }
  }
  await Promise.all(Array.from({ length: atOnce }, lane))
  return done
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

let stopped = false
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    stopped = true
    for (const child of children) child.kill(signal)
    process.exitCode = 130
  })
}

const slow = files.filter((file) => file.startsWith('test/e2e/'))
const quick = files.filter((file) => !slow.includes(file))
let results = [...(await runFiles(quick, 2)), ...(await runFiles(slow, 1))]

const shaky = results.filter(({ failed }) => failed > 0).map(({ file }) => file)
if (shaky.length > 0 && files.length > 1 && !stopped) {
  process.stdout.write(`\n== once more, alone: ${shaky.join(' ')}\n`)
  const again = await runFiles(shaky, 1)
  results = [...results.filter(({ file }) => !shaky.includes(file)), ...again]
}

process.stdout.write('\n== the slowest files\n')
for (const { file, seconds } of results.toSorted((a, b) => b.seconds - a.seconds).slice(0, 12)) {
  process.stdout.write(`${seconds.toFixed(1).padStart(7)} s  ${file}\n`)
}
for (const { file, failed } of results) {
  if (failed > 0) process.stdout.write(`failed: ${file}\n`)
  else if (shaky.includes(file)) process.stdout.write(`passed only when run again: ${file}\n`)
}

const sum = (key: keyof Counts): number => results.reduce((total, ran) => total + ran[key], 0)
const total: Counts = { passed: sum('passed'), failed: sum('failed'), skipped: sum('skipped') }
// In CI everything that a test could need was installed: what was skipped was not proved.
if (process.env.CI === 'true') {
  total.failed += total.skipped
  total.skipped = 0
}
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : ''
process.stdout.write(`${total.passed} passed, ${total.failed} failed${skipped}\n`)
process.exitCode = total.failed > 0 ? 1 : process.exitCode
