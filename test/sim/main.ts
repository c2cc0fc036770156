import { Command, Option } from 'commander'
import { formatBytes, parseBytes } from '../../base/index.ts'
import { simulate } from './swarm.ts'
import { DEFAULTS, type Failure, lowerBoundMs, type Scenario } from './types.ts'

/** `1Gbit`, `100Mbit`, `10MB`: bytes a second. */
export function parseRate(text: string): number {
  const bits = /^(.*)bit(?:\/s)?$/i.exec(text)
  return bits ? parseBytes(`${bits[1]}B`) / 8 : parseBytes(text)
}

/** `coordinator@2s`, `seeder@1.5s`, `random:5@3s`. */
export function parseFailure(text: string): Failure {
  const match = /^(coordinator|seeder|random)(?::(\d+))?@(\d+(?:\.\d+)?)(ms|s)?$/.exec(text)
  if (!match) throw new Error(`not a failure: ${text} (coordinator@2s, seeder@1.5s, random:5@3s)`)
  const [, who, count, at, unit] = match
  return {
    who: who as Failure['who'],
    count: Number(count ?? 1),
    atMs: Number(at) * (unit === 'ms' ? 1 : 1000),
  }
}

interface Given {
  nodes: number
  size: string
  uplink: string
  uplinks: Scenario['uplinks']
  lan: string
  links: Scenario['links']
  seed: number
  latency: number
  batch: number
  fail?: string[]
  json?: true
  quiet?: true
}

const command = new Command('sim')
  .description('Simulates a site whose nodes pull one blob at the same moment, with the real scheduler code')
  .option('--nodes <n>', 'nodes', Number, DEFAULTS.nodes)
  .option('--size <size>', 'of the blob', '1GiB')
  .option('--uplink <rate>', 'to upstream', '1Gbit')
  .addOption(
    new Option('--uplinks <kind>', 'one for the site, or one each')
      .choices(['shared', 'each'])
      .default('shared'),
  )
  .option('--lan <rate>', 'of each node, in each direction', '1Gbit')
  .addOption(
    new Option('--links <kind>', 'how a LAN link is shared').choices(['fair', 'fifo']).default('fair'),
  )
  .option('--seed <n>', 'of all chance', Number, 1)
  .option('--latency <ms>', 'one way, between nodes', Number, DEFAULTS.latencyMs)
  .option('--batch <ms>', 'news of blocks are gathered for', Number, DEFAULTS.batchMs)
  .option('--fail <what...>', 'coordinator@2s, seeder@1.5s, random:5@3s')
  .option('--json', 'the figures as JSON')
  .option('--quiet', 'no progress on stderr')

command.parse()
const given = command.opts<Given>()
const scenario: Scenario = {
  ...DEFAULTS,
  nodes: given.nodes,
  size: parseBytes(given.size),
  uplink: parseRate(given.uplink),
  uplinks: given.uplinks,
  lan: parseRate(given.lan),
  links: given.links,
  seed: given.seed,
  latencyMs: given.latency,
  batchMs: given.batch,
  failures: (given.fail ?? []).map(parseFailure),
}

const began = performance.now()
const outcome = simulate(
  scenario,
  given.quiet
    ? undefined
    : (clock, done, { lanBytes, uplinkBytes }) => {
        const wall = ((performance.now() - began) / 1000).toFixed(1)
        process.stderr.write(
          `${(clock.now / 1000).toFixed(0)} s simulated, ${done} done, uplink ${formatBytes(uplinkBytes)}, LAN ${formatBytes(lanBytes)}, ${wall} s of wall time\n`,
        )
      },
)
const wallMs = performance.now() - began
const bound = lowerBoundMs(scenario)
const { doneMs } = outcome
const last = doneMs.at(-1) ?? Number.NaN
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s (${(ms / bound).toFixed(3)}x)`
const each = (count: number): string => (count / scenario.nodes).toFixed(0)

const figures = {
  scenario,
  lowerBoundMs: bound,
  lastMs: last,
  medianMs: doneMs[Math.floor(doneMs.length / 2)],
  firstMs: doneMs[0],
  ratio: last / bound,
  uplinkRatio: outcome.uplinkBytes / scenario.size,
  wallMs,
  rssBytes: process.memoryUsage.rss(),
  ...outcome,
  doneMs: undefined,
}
if (given.json) console.log(JSON.stringify(figures))
else {
  const rows: [string, string][] = [
    ['lower bound', `${(bound / 1000).toFixed(2)} s`],
    ['last node', seconds(last)],
    ['median node', seconds(figures.medianMs ?? Number.NaN)],
    ['first node', seconds(figures.firstMs ?? Number.NaN)],
    ['unfinished, killed', `${outcome.unfinished}, ${outcome.killed}`],
    ['uplink', `${formatBytes(outcome.uplinkBytes)} (${figures.uplinkRatio.toFixed(4)}x the blob)`],
    [
      'LAN',
      `${formatBytes(outcome.lanBytes)}, wasted ${((100 * outcome.wastedBytes) / Math.max(1, outcome.lanBytes)).toFixed(2)} %`,
    ],
    [
      'a node, messages',
      `${each(outcome.dispatches)} dispatches, ${each(outcome.notes)} notes, ${each(outcome.asks)} asks ` +
        `(${each(outcome.hedges)} hedges, ${each(outcome.missing)} misses)`,
    ],
    ['dispatch traffic', formatBytes(outcome.dispatchBytes)],
    [
      'simulation',
      `${outcome.events} events, ${(outcome.events / wallMs).toFixed(0)}k/s, ${(wallMs / 1000).toFixed(1)} s, ${formatBytes(figures.rssBytes)}`,
    ],
  ]
  for (const [name, value] of rows) console.log(`${name.padEnd(20)} ${value}`)
}
process.exitCode = outcome.unfinished === 0 ? 0 : 1
