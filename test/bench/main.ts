import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { formatTable } from '../lab/table.ts'
import { type Context, conditions, markdown, type Row, type Scenario, tableRows } from './report.ts'
import { cached } from './scenarios/cached.ts'
import { doubles } from './scenarios/doubles.ts'
import { durable } from './scenarios/durable.ts'
import { each } from './scenarios/each.ts'
import { idle } from './scenarios/idle.ts'
import { lan } from './scenarios/lan.ts'
import { lone } from './scenarios/lone.ts'
import { mec } from './scenarios/mec.ts'
import { mecMove } from './scenarios/mec-move.ts'
import { migrate } from './scenarios/migrate.ts'
import { push } from './scenarios/push.ts'
import { restore } from './scenarios/restore.ts'
import { state } from './scenarios/state.ts'
import { storage } from './scenarios/storage.ts'
import { swarm } from './scenarios/swarm.ts'
import { watchStolen } from './stolen.ts'

/** Those of docs/benchmarks.md, which is written whole or not at all. */
const TABLE: Scenario[] = [swarm, each, lan, lone, cached, idle]
const SCENARIOS: Scenario[] = [
  ...TABLE,
  doubles,
  storage,
  durable,
  push,
  state,
  restore,
  migrate,
  mec,
  mecMove,
]

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '3' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

const chosen = SCENARIOS.filter((s) => positionals.length === 0 || positionals.includes(s.name))
const unknown = positionals.filter((name) => !SCENARIOS.some((s) => s.name === name))
if (values.help || unknown.length > 0) {
  const names = SCENARIOS.map((s) => `  ${s.name.padEnd(8)} ${s.about}`).join('\n')
  process.stderr.write(`npm run bench -- [NAME…] [--runs 3] [--write]\n${names}\n`)
  process.exit(values.help ? 0 : 2)
}
if (process.getuid?.() !== 0) {
  process.stderr.write('bench: needs root for network namespaces\n')
  process.exit(1)
}

const context: Context = {
  runs: Number(values.runs),
  write: values.write,
  say: (line) => void process.stderr.write(`${line}\n`),
}
const rows: Row[] = []
const stolen = new Map<string, number>()
for (const scenario of chosen) {
  context.say(`${scenario.name}: ${scenario.about}`)
  const share = watchStolen()
  rows.push(...(await scenario.run(context)))
  stolen.set(scenario.name, share())
}
process.stdout.write(`${conditions(stolen)}\n\n${formatTable(tableRows(rows))}\n`)
if (values.write && TABLE.every((scenario) => chosen.includes(scenario))) {
  writeFileSync(new URL('../../docs/benchmarks.md', import.meta.url), markdown(rows, context.runs, stolen))
}
process.exitCode = rows.every((row) => row.ok) ? 0 : 1
