import { createMigrationLab, type MigrationLab, type MigrationNode } from '../../e2e/migration-lab.ts'
import { fillRedis, REDIS, startWriter } from '../../e2e/redis.ts'
import { sleep, until } from '../../lab/index.ts'
import { type Context, mebibytes, median, type Row, type Scenario, seconds, times } from '../report.ts'

const MIB = 160
const VERSIONS = 10
/** 2,000 SETs of random keys between two versions. */
const SETS_PER_SECOND = 500
const WRITING_MS = 4000

interface Created {
  size: number
  added: number
  seconds: Record<string, number>
}

const sum = (steps: Record<string, number>): number => Object.values(steps).reduce((a, b) => a + b, 0)
const steps = (of: Record<string, number>): string =>
  Object.entries(of)
    .map(([step, took]) => `${step} ${took.toFixed(2)}`)
    .join(', ')

async function json<T>(node: MigrationNode, ...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await node.shoal.cli([...args, '--json'])
  if (code !== 0) throw new Error(`shoal ${args.join(' ')}: ${stderr}`)
  return JSON.parse(stdout) as T
}

async function createAll(lab: MigrationLab, { say }: Context): Promise<void> {
  const [node] = lab.nodes as [MigrationNode]
  const client = node.host.netns
  await lab.start(node, 'redis', REDIS, { netns: lab.netns })
  await until('Redis takes data', () =>
    fillRedis(client, MIB).then(
      () => true,
      () => false,
    ),
  )
  for (let version = 1; version <= VERSIONS; version++) {
    if (version > 1) {
      const writer = startWriter(client, MIB, SETS_PER_SECOND)
      await sleep(WRITING_MS)
      await writer.stop()
    }
    const made = await json<Created>(node, 'checkpoint', 'create', 'redis', '--leave-running')
    const { size, added } = made
    say(`  version ${version}: ${mebibytes(size)}, ${mebibytes(added)} added; ${steps(made.seconds)}`)
  }
}

async function restoreOnce(lab: MigrationLab, version: number, { say }: Context): Promise<number> {
  const [, node] = lab.nodes as [MigrationNode, MigrationNode]
  const name = `copy-${version}`
  const reference = `redis:${version}`
  const restored = await json<{ seconds: Record<string, number> }>(node, 'restore', reference, '--name', name)
  say(`  ${reference}: ${steps(restored.seconds)}`)
  await node.containerd.ctr(['tasks', 'kill', '-s', 'KILL', name])
  await until('it has ended', async () => (await lab.pidOn(node, name)) === undefined)
  await node.containerd.ctr(['tasks', 'rm', name], { mayFail: true })
  await node.containerd.ctr(['containers', 'rm', name])
  return sum(restored.seconds) * 1000
}

export const restore: Scenario = {
  name: 'restore',
  about: `a Redis of ${MIB} MiB checkpointed ${VERSIONS} times under writes, and the first and last version restored on another node`,
  async run(context): Promise<Row[]> {
    const lab = await createMigrationLab()
    try {
      await createAll(lab, context)
      const first: number[] = []
      const last: number[] = []
      // The first of all also brings the blobs to the node: it does not count.
      await restoreOnce(lab, 1, context)
      await restoreOnce(lab, VERSIONS, context)
      for (let run = 0; run < context.runs; run++) {
        first.push(await restoreOnce(lab, 1, context))
        last.push(await restoreOnce(lab, VERSIONS, context))
      }
      const ratio = median(last) / median(first)
      return [
        {
          criterion: 'state 3',
          what: `shoal restore of version ${VERSIONS}, against version 1`,
          baseline: seconds(median(first)),
          shoal: seconds(median(last)),
          figure: times(ratio),
          target: '<= 1.5x',
          ok: ratio <= 1.5,
        },
      ]
    } finally {
      await lab.destroy()
    }
  },
}
