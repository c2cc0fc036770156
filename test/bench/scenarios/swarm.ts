import { type PullReport, type Site, startSite } from '../../lab/index.ts'
import { withBackedMemory } from '../backed.ts'
import { median, percent, type Row, type Scenario, seconds, times } from '../report.ts'
import { direct, inLab, layersOf, MIB, memoryRow, mustBeOk } from './common.ts'

/** Until the clients begin, so that all of them are up by then. */
const LEAD_MS = 2000

export const swarm: Scenario = {
  name: 'swarm',
  about: '8 nodes pull 128 MiB in 4 layers at once; uplink shared at 100 Mbit/s',
  run: ({ runs, say }) =>
    inLab({ hosts: 8, uplink: { rate: '100mbit', shared: true }, lan: '1gbit' }, async (lab) => {
      const images = Array.from({ length: runs }, (_, i) => ({
        name: 'lab/swarm',
        tag: `${i}`,
        layers: layersOf(128, 4),
      }))
      const pushed = await lab.push(images)
      const site = await startSite(lab)
      const alone: number[] = []
      const last: number[] = []
      const carried: number[] = []
      for (const [i, { name, tag }] of images.entries()) {
        alone.push((await direct(lab, 0, name, tag)).totalMs)
        const before = await lab.uplink()
        const reports = (await pullAll(site, name, tag)).map(mustBeOk)
        const after = await lab.uplink()
        last.push(Math.max(...reports.map((report) => report.totalMs)))
        carried.push((after.down - before.down) / pushed[i]!.bytes)
        say(
          `  direct ${seconds(alone.at(-1)!)}, last of 8 ${seconds(last.at(-1)!)}, uplink ${percent(carried.at(-1)!)}`,
        )
      }
      const ratio = median(last) / median(alone)
      const share = median(carried)
      const rows: Row[] = [
        {
          criterion: '2',
          what: 'the last of 8 nodes is done, uplink shared at 100 Mbit/s',
          baseline: `${seconds(median(alone))} (one node)`,
          shoal: seconds(median(last)),
          figure: times(ratio),
          target: '<= 1.15x',
          ok: ratio <= 1.15,
        },
        {
          criterion: '2',
          what: 'what the uplink carried for 8 nodes',
          baseline: '8.00x',
          shoal: times(share),
          figure: `${share.toFixed(3)}x`,
          target: '<= 1.03x',
          ok: share <= 1.03,
        },
        memoryRow('8 nodes pull at once', site),
      ]
      return rows
    }),
}

/** All at the same moment; eight copies are written meanwhile. */
function pullAll(site: Site, name: string, tag: string): Promise<PullReport[]> {
  const dir = site.hosts[0]!.dir
  let at = 0
  return withBackedMemory({ dir, bytes: 2048 * MIB, perSecond: 144 * MIB, from: () => at }, () => {
    at = Date.now() + LEAD_MS
    return site.pullAll(name, tag, { leadMs: LEAD_MS })
  })
}
