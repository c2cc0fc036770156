import type { Migration } from '../../../integration/index.ts'
import { createMigrationLab, type MigrationLab, type MigrationNode } from '../../e2e/migration-lab.ts'
import { fillRedis, REDIS, startPoller, startWriter } from '../../e2e/redis.ts'
import { sleep, until } from '../../lab/index.ts'
import { type Context, mebibytes, median, type Row, type Scenario, seconds } from '../report.ts'

const SETS_PER_SECOND = 500
/** MiB of data; the last one is what is judged, by the longest silence (ms) that a poller each 10 ms may see. */
const SIZES = [40, 160]
const LINKS = [
  { lan: '1gbit', mostMs: 1500 },
  { lan: '100mbit', mostMs: 2500 },
]

interface Measured {
  /** As the poller saw it, and as the daemons say. */
  silentMs: number
  frozenMs: number
  totalMs: number
  rounds: Migration['rounds']
}

const describeRounds = (rounds: Migration['rounds']): string =>
  rounds
    .map(({ frozen, changed, sent, seconds: took }) => {
      const what = `${(changed / 2 ** 20).toFixed(1)} MiB changed, ${(sent / 2 ** 20).toFixed(1)} sent in ${took.toFixed(2)} s`
      return frozen ? `frozen: ${what}` : what
    })
    .join('; ')

/** A new Redis each time, so that nothing of it is known to the target by chance. */
async function moveOnce(
  lab: MigrationLab,
  name: string,
  mib: number,
  rounds: number | undefined,
): Promise<Measured> {
  const [a, b] = lab.nodes as [MigrationNode, MigrationNode]
  const client = a.host.netns
  await lab.start(a, name, REDIS, { netns: lab.netns })
  await until('Redis takes data', () =>
    fillRedis(client, mib).then(
      () => true,
      () => false,
    ),
  )
  const writer = startWriter(client, mib, SETS_PER_SECOND)
  const poller = startPoller(client)
  await sleep(1000)
  const more = rounds === undefined ? [] : ['--rounds', `${rounds}`]
  const { code, stdout, stderr } = await a.shoal.cli(['migrate', name, '--to', b.name, '--json', ...more])
  if (code !== 0) throw new Error(`${stderr}\n${lab.logs()}`)
  await sleep(1000)
  const { longestMs } = await poller.stop()
  const { missing } = await writer.stop()
  if (missing.length > 0) throw new Error(`acknowledged writes are lost: ${missing.slice(0, 5).join(', ')}`)
  await b.containerd.ctr(['tasks', 'kill', '-s', 'KILL', name])
  await until('it is gone', async () => (await lab.pidOn(b, name)) === undefined)
  const moved = JSON.parse(stdout) as Migration
  return {
    silentMs: longestMs,
    frozenMs: moved.downtimeMs ?? 0,
    totalMs: (moved.endedAt ?? moved.startedAt) - moved.startedAt,
    rounds: moved.rounds,
  }
}

async function measure(
  lab: MigrationLab,
  mib: number,
  precopy: boolean,
  { runs, say }: Context,
): Promise<Measured[]> {
  const measured: Measured[] = []
  for (let run = 1; run <= runs; run++) {
    const name = `redis-${mib}-${precopy ? 'pre' : 'cold'}-${run}`
    const one = await moveOnce(lab, name, mib, precopy ? undefined : 0)
    const { silentMs, frozenMs, totalMs, rounds } = one
    say(
      `  ${name}: silent ${silentMs} ms, frozen ${frozenMs} ms, ${seconds(totalMs)} in all; ${describeRounds(rounds)}`,
    )
    measured.push(one)
  }
  const { doubles } = await lab.observer.seen()
  if (doubles.length > 0) throw new Error(`two copies ran: ${doubles.join(', ')}`)
  return measured
}

const medianOf = (measured: Measured[], what: (one: Measured) => number): number => median(measured.map(what))

async function link({ lan, mostMs }: (typeof LINKS)[number], context: Context): Promise<Row[]> {
  const lab = await createMigrationLab({ lan })
  try {
    const rows: Row[] = []
    for (const mib of SIZES) {
      context.say(` ${mib} MiB at ${lan}`)
      const whole = await measure(lab, mib, false, { ...context, runs: Math.min(context.runs, 2) })
      const copied = await measure(lab, mib, true, context)
      const silentMs = medianOf(copied, (one) => one.silentMs)
      const judged = mib === SIZES.at(-1)
      const frozen = medianOf(copied, ({ rounds }) => rounds.at(-1)?.sent ?? 0)
      rows.push({
        criterion: 'state 2',
        what: `downtime of a Redis of ${mib} MiB with ${SETS_PER_SECOND} SET/s at ${lan}, all in ${seconds(medianOf(copied, (one) => one.totalMs))}, ${mebibytes(frozen)} frozen; without: no pre-copy`,
        baseline: seconds(medianOf(whole, (one) => one.silentMs)),
        shoal: seconds(silentMs),
        figure: seconds(silentMs),
        target: judged ? `<= ${seconds(mostMs)}` : '-',
        ok: !judged || silentMs <= mostMs,
      })
    }
    return rows
  } finally {
    await lab.destroy()
  }
}

export const migrate: Scenario = {
  name: 'migrate',
  about: 'a Redis of 40 and 160 MiB under writes moves to another node, at 1 Gbit/s and 100 Mbit/s',
  async run(context) {
    const rows: Row[] = []
    for (const one of LINKS) rows.push(...(await link(one, context)))
    return rows
  },
}
