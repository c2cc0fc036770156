import { sleep, startSite } from '../../lab/index.ts'
import { percent, type Row, type Scenario } from '../report.ts'
import { inLab, layersOf, MIB, mustBeOk } from './common.ts'

const WINDOW_MS = 30_000

export const idle: Scenario = {
  name: 'idle',
  about: 'what the daemons of a site of 8 use while nothing happens, after a pull',
  run: ({ say }) =>
    inLab({ hosts: 8, lan: '1gbit' }, async (lab) => {
      await lab.push([{ name: 'lab/idle', tag: '1', layers: layersOf(32, 2) }])
      const site = await startSite(lab)
      for (const report of await site.pullAll('lab/idle', '1')) mustBeOk(report)
      await sleep(10_000)
      const before = site.nodes.map((node) => node.cpuMs())
      const from = performance.now()
      await sleep(WINDOW_MS)
      const wall = performance.now() - from
      const use = site.nodes.map((node, i) => (node.cpuMs() - before[i]!) / wall)
      const worst = Math.max(...use)
      say(`  ${use.map((value) => percent(value, 2)).join(', ')} of a core`)
      say(`  resident: ${site.nodes.map((node) => Math.round(node.rss() / MIB)).join(', ')} MiB`)
      const rows: Row[] = [
        {
          criterion: '7',
          what: 'idle in a site of 8, of a core (worst daemon)',
          baseline: '-',
          shoal: percent(worst, 2),
          figure: percent(worst, 2),
          target: '< 1 %',
          ok: worst < 0.01,
        },
      ]
      return rows
    }),
}
