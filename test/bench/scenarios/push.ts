import { startAgent, startSite } from '../../lab/index.ts'
import { median, type Row, type Scenario, seconds } from '../report.ts'
import { inLab, MIB, mustBeOk } from './common.ts'

const HOSTS = 4
/** Each run takes some seconds: the dead node has to come back. */
const TIMES = 4

export const push: Scenario = {
  name: 'push',
  about: '1.3 MiB are pushed on one of 4 nodes, which is killed at the acknowledgement; another node pulls',
  run: ({ runs, say }) =>
    inLab({ hosts: HOSTS, lan: '1gbit' }, async (lab) => {
      const site = await startSite(lab)
      const agents = lab.hosts.map(({ netns }) => startAgent(netns))
      const took: number[] = []
      const pushing: number[] = []
      try {
        for (let run = 0; run < runs * TIMES; run++) {
          const from = run % HOSTS
          const to = (from + 1 + (run % (HOSTS - 1))) % HOSTS
          const base = site.nodes[from]!.registry.replace(/\/v2$/, '')
          const spec = { name: 'local/handover', tag: `r${run}`, layers: [MIB, 0.25 * MIB] }
          const begun = performance.now()
          await agents[from]!.push(base, spec)
          const acknowledged = performance.now()
          site.nodes[from]!.kill('SIGKILL')
          mustBeOk(
            await agents[to]!.pull({ base: site.nodes[to]!.registry, name: spec.name, reference: spec.tag }),
          )
          took.push(performance.now() - acknowledged)
          pushing.push(acknowledged - begun)
          say(`  pushed in ${seconds(pushing.at(-1)!)}, pulled after ${seconds(took.at(-1)!)}`)
          await site.heal()
        }
      } finally {
        for (const agent of agents) agent.stop()
      }
      const worst = Math.max(...took)
      const row: Row = {
        criterion: 'store 5',
        what: 'from the acknowledgement of a push to the end of a pull on another node, the first one killed',
        baseline: '-',
        shoal: `${seconds(median(took))}, worst of ${took.length} ${seconds(worst)}`,
        figure: seconds(worst),
        target: '<= 1 s',
        ok: worst <= 1000,
      }
      return [row]
    }),
}
