import { execFileSync } from 'node:child_process'
import { cpus, release, totalmem } from 'node:os'

/** One figure against its target. */
export interface Row {
  /** Its place in the list of what is judged. */
  criterion: string
  what: string
  /** The same without Shoal, in the same run. */
  baseline: string
  shoal: string
  /** What the target is about: a ratio, a share, bytes. */
  figure: string
  target: string
  ok: boolean
}

export interface Context {
  runs: number
  /** What is drawn goes to `docs/`. */
  write: boolean
  say(line: string): void
}

export interface Scenario {
  name: string
  about: string
  run(context: Context): Promise<Row[]>
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`
export const times = (value: number): string => `${value.toFixed(2)}x`
export const percent = (value: number, digits = 1): string => `${(value * 100).toFixed(digits)} %`
export const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`

function commit(): string {
  try {
    const id = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' })
    return `, commit ${id.trim()}`
  } catch {
    return '' // No git, or not a clone.
  }
}

/**
 * What the figures depend on, for people who compare them.
 *
 * @param stolen of each scenario, the share of the CPU time it wanted that the machine's host gave to others
 */
export function conditions(stolen: ReadonlyMap<string, number>): string {
  const shares = [...stolen].map(([name, share]) => `${name} ${percent(share, 0)}`)
  return `${machine()}\nTaken by the machine's host of the CPU time that a scenario wanted (steal): ${shares.join(', ')}`
}

function machine(): string {
  const model = cpus()[0]?.model.trim() ?? 'unknown CPU'
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB of memory`
  const date = new Date().toISOString().slice(0, 10)
  return `${cpus().length} cores (${model}), ${memory}, Linux ${release()}, Node.js ${process.version}, ${date}${commit()}`
}

const HEAD = ['#', 'what', 'without Shoal', 'with Shoal', 'figure', 'target', 'verdict']

const cells = (row: Row): string[] => [
  row.criterion,
  row.what,
  row.baseline,
  row.shoal,
  row.figure,
  row.target,
  row.ok ? 'met' : 'MISSED',
]

export function tableRows(rows: Row[]): string[][] {
  return [HEAD, ...[...rows].sort((a, b) => a.criterion.localeCompare(b.criterion)).map(cells)]
}

export function markdown(rows: Row[], runs: number, stolen: ReadonlyMap<string, number>): string {
  const [head, ...body] = tableRows(rows)
  const line = (row: string[]) => `| ${row.join(' | ')} |`
  return [
    '# Benchmarks',
    '',
    'Written by `npm run bench -- swarm each lan lone cached idle --write`; fewer of them only print. Each figure is the median of',
    `${runs} runs; the baseline is the same client pulling directly in the same run. Hosts are network namespaces with links`,
    'shaped by tbf, and all of them, the registry and the clients share the cores of one machine, which is given memory that its host has backed in 2 and 4.',
    '',
    conditions(stolen),
    '',
    line(head!),
    `|${head!.map(() => '---').join('|')}|`,
    ...body.map(line),
    '',
  ].join('\n')
}
