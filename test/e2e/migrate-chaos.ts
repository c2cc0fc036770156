import { parseArgs } from 'node:util'
import type { Migration } from '../../integration/index.ts'
import { sleep, until } from '../lab/index.ts'
import { COUNTER, createMigrationLab, type MigrationLab, type MigrationNode } from './migration-lab.ts'

/**
 * Moves a container back and forth between two hosts for as long as it is told to, and each time breaks something at a random moment: kills a daemon
 * or a containerd, or cuts the network for 20 s, in each phase in turn. After each move exactly one copy runs, which has gone on counting.
 * `--first N` begins with the N-th case.
 */
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    mib: { type: 'string', default: '16' },
    first: { type: 'string', default: '1' },
  },
})
const say = (line: string): void => void process.stdout.write(`${new Date().toISOString()} ${line}\n`)
const LONG = { timeoutMs: 180_000, everyMs: 100 }
const NAME = 'chaos'

type Fault = (from: MigrationNode, to: MigrationNode) => Promise<void>

const cut = async (node: MigrationNode): Promise<void> => {
  await node.host.cutLan()
  await sleep(20_000)
  await node.host.restoreLan()
}
const killDaemon = async (node: MigrationNode): Promise<void> => {
  await node.kill()
  await sleep(Math.random() * 3000)
  await node.restart()
}
const killContainerd = async (node: MigrationNode): Promise<void> => {
  await node.killContainerd()
  await sleep(Math.random() * 3000)
  await node.restartContainerd()
}

const FAULTS: Record<string, Fault> = {
  nothing: async () => {},
  "the source's network is cut for 20 s": (from) => cut(from),
  "the source's daemon is killed": (from) => killDaemon(from),
  "the target's daemon is killed": (_, to) => killDaemon(to),
  'both daemons are killed': async (from, to) => void (await Promise.all([killDaemon(from), killDaemon(to)])),
  "the target's containerd is killed": (_, to) => killContainerd(to),
}
/** Phases that the source and the target say that they are in. */
const PHASES: [side: 'source' | 'target', phase: string][] = [
  ['source', 'copying'],
  ['source', 'freezing'],
  ['source', 'handed-over'],
  ['target', 'starting'],
  ['source', 'committing'],
]

const count = async (lab: MigrationLab, node: MigrationNode): Promise<number> =>
  Number(await lab.read(node, NAME, '/count').catch(() => '0'))

/** The one node on which it runs, once both ends have ended all migrations. */
async function settle(lab: MigrationLab): Promise<{ on: MigrationNode; last: Migration | undefined }> {
  const all = await until(
    'all migrations have ended',
    async () => {
      const known = (
        await Promise.all(lab.nodes.map((node) => node.migrations().catch(() => undefined)))
      ).flat()
      return known.every((one) => one !== undefined && one.state !== 'running') && (known as Migration[])
    },
    LONG,
  )
  const pids = await Promise.all(lab.nodes.map((node) => lab.pidOn(node, NAME)))
  const running = lab.nodes.filter((_, i) => pids[i] !== undefined)
  if (running.length !== 1)
    throw new Error(`it runs on ${running.length} nodes: ${JSON.stringify(all, null, 1)}`)
  const last = (all || [])
    .filter(({ role }) => role === 'source')
    .sort((a, b) => b.startedAt - a.startedAt)[0]
  return { on: running[0]!, last }
}

const lab = await createMigrationLab()
try {
  await lab.start(lab.nodes[0]!, NAME, COUNTER(Number(values.mib)))
  let on = lab.nodes[0]!
  let round = 0
  const cases = PHASES.flatMap((phase) =>
    Object.entries(FAULTS).map(([what, fault]) => ({ what, fault, phase })),
  )
  for (const end = Date.now() + Number(values.minutes) * 60_000; Date.now() < end; round++) {
    const { what, fault, phase } = cases[(round + Number(values.first) - 1) % cases.length]!
    const to = lab.nodes.find((node) => node !== on)!
    const before = await until('it counts', () => count(lab, on), LONG)
    const watched = (phase[0] === 'source' ? on : to).phase(phase[1])
    const moving = on.shoal.cli(['migrate', NAME, '--to', to.name]).catch(() => {})
    // It may have come to nothing before that phase.
    await Promise.race([watched.reached.catch(() => {}), moving])
    await fault(on, to)
    await moving
    const { on: now, last } = await settle(lab)
    const after = await until('it counts on', () => count(lab, now), LONG)
    if (after < before) throw new Error(`it counted ${before}, and ${after} now`)
    const { doubles } = await lab.observer.seen()
    if (doubles.length > 0) throw new Error(`two copies ran: ${doubles.join(', ')}`)
    say(
      `${round + 1}. ${what} at ${phase[1]}: ${last?.state}, frozen ${last?.downtimeMs ?? 0} ms${last?.reason ? ` (${last.reason})` : ''}`,
    )
    on = now
  }
  say(`${round} moves, always one copy`)
} catch (error) {
  say(lab.logs())
  throw error
} finally {
  await lab.destroy()
}
