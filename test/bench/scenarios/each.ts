import { startSite } from '../../lab/index.ts'
import { median, type Row, type Scenario, seconds, times } from '../report.ts'
import { direct, inLab, layersOf, memoryRow, mustBeOk } from './common.ts'

export const each: Scenario = {
  name: 'each',
  about: '4 nodes with an uplink of 50 Mbit/s each pull 128 MiB at once',
  run: ({ runs, say }) =>
    inLab({ hosts: 4, uplink: { rate: '50mbit', each: true }, lan: '1gbit' }, async (lab) => {
      const images = Array.from({ length: runs }, (_, i) => ({
        name: 'lab/each',
        tag: `${i}`,
        layers: layersOf(128, 4),
      }))
      await lab.push(images)
      const site = await startSite(lab)
      const alone: number[] = []
      const last: number[] = []
      for (const { name, tag } of images) {
        alone.push((await direct(lab, 0, name, tag)).totalMs)
        const reports = (await site.pullAll(name, tag)).map(mustBeOk)
        last.push(Math.max(...reports.map((report) => report.totalMs)))
        say(`  direct ${seconds(alone.at(-1)!)}, last of 4 ${seconds(last.at(-1)!)}`)
      }
      const ratio = median(last) / median(alone)
      const rows: Row[] = [
        {
          criterion: '3',
          what: '4 nodes with 50 Mbit/s each are done',
          baseline: `${seconds(median(alone))} (one node)`,
          shoal: seconds(median(last)),
          figure: times(ratio),
          target: '<= 0.35x',
          ok: ratio <= 0.35,
        },
        memoryRow('4 uplinks', site),
      ]
      return rows
    }),
}
