import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { startSite } from '../../lab/index.ts'
import { withBackedMemory } from '../backed.ts'
import { median, percent, type Row, type Scenario } from '../report.ts'
import { inLab, layersOf, MIB, memoryRow, mustBeOk, rate } from './common.ts'
import { curlMs, startNginx } from './nginx.ts'

export const lan: Scenario = {
  name: 'lan',
  about: 'one node has 256 MiB, another pulls it over a LAN of 1 Gbit/s',
  run: ({ runs, say }) =>
    inLab({ hosts: 2, uplink: { rate: '1gbit', shared: true }, lan: '1gbit' }, async (lab) => {
      const [first, second] = lab.hosts
      const images = Array.from({ length: runs }, (_, i) => ({
        name: 'lab/lan',
        tag: `${i}`,
        layers: layersOf(256, 4),
      }))
      const pushed = await lab.push(images)
      const nginx = await startNginx(first!)
      execFileSync('truncate', ['-s', `${256 * MIB}`, join(nginx.root, 'file')])
      const site = await startSite(lab)
      const link: number[] = []
      const shoal: number[] = []
      const carried: number[] = []
      for (const [i, { name, tag }] of images.entries()) {
        mustBeOk(await site.pull(0, name, tag))
        const plain = await curlMs(second!, nginx.url(first!.address, 'file'))
        link.push(plain.bytes / plain.ms)
        const before = await lab.uplink()
        const report = await withBackedMemory(
          { dir: second!.dir, bytes: 1024 * MIB, perSecond: 256 * MIB },
          async () => mustBeOk(await site.pull(1, name, tag)),
        )
        const after = await lab.uplink()
        shoal.push(report.bytes / report.totalMs)
        carried.push((after.down + after.up - before.down - before.up) / pushed[i]!.bytes)
        say(
          `  nginx ${rate(link.at(-1)!)}, Shoal ${rate(shoal.at(-1)!)}, uplink ${percent(carried.at(-1)!, 3)}`,
        )
      }
      const share = median(shoal) / median(link)
      const uplink = median(carried)
      const rows: Row[] = [
        {
          criterion: '4',
          what: 'pull from one neighbour over 1 Gbit/s',
          baseline: `${rate(median(link))} (nginx)`,
          shoal: rate(median(shoal)),
          figure: percent(share),
          target: '>= 85 %',
          ok: share >= 0.85,
        },
        {
          criterion: '4',
          what: 'what the uplink carried meanwhile, tag check included',
          baseline: '-',
          shoal: percent(uplink, 3),
          figure: percent(uplink, 3),
          target: '<= 1 %',
          ok: uplink <= 0.01,
        },
        memoryRow('a neighbour at 1 Gbit/s', site),
      ]
      return rows
    }),
}
