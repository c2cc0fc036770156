import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { startSite, until } from '../../lab/index.ts'
import { withBackedMemory } from '../backed.ts'
import { mebibytes, percent, type Row, type Scenario, seconds } from '../report.ts'
import { inLab, layersOf, MIB, mustBeOk, rate } from './common.ts'
import { curlMs, startNginx } from './nginx.ts'

const IMAGE = { name: 'lab/doubles', tag: '1', layers: layersOf(256, 4) }
const HAVE = 4

export const doubles: Scenario = {
  name: 'doubles',
  about:
    '4 nodes with containerd pull 256 MiB; what Shoal keeps of its own, and a fifth that pulls it from them',
  run: ({ say }) =>
    inLab({ hosts: HAVE + 1, uplink: { rate: '1gbit', shared: true }, lan: '1gbit' }, async (lab) => {
      const [image] = await lab.push([IMAGE])
      const { bytes } = image!
      const containerds = await Promise.all(lab.hosts.slice(0, HAVE).map((host) => host.containerd()))
      for (const containerd of containerds) containerd.mirror('docker.io', ['http://127.0.0.1:5080'])
      const nginx = await startNginx(lab.hosts[0]!)
      execFileSync('truncate', ['-s', `${256 * MIB}`, join(nginx.root, 'file')])
      const site = await startSite(lab, (i) =>
        i < HAVE ? { flags: ['--containerd-root', containerds[i]!.root] } : {},
      )
      await Promise.all(containerds.map((containerd) => containerd.pull(`docker.io/${IMAGE.name}:1`)))
      await until(
        'all of it is borrowed',
        async () => {
          const stores = await Promise.all(containerds.map(async (_, i) => (await site.status(i)).store))
          return stores.every((store) => store.borrowed >= 0.98 * bytes)
        },
        { timeoutMs: 120_000 },
      )
      const own = await Promise.all(containerds.map(async (_, i) => (await site.status(i)).store.bytes))
      const most = Math.max(...own)
      say(`  own blocks: ${own.map(mebibytes).join(', ')}`)

      await lab.cutUplink()
      const last = HAVE
      const plain = await curlMs(lab.hosts[last]!, nginx.url(lab.hosts[0]!.address, 'file'))
      const report = await withBackedMemory(
        { dir: lab.hosts[last]!.dir, bytes: 2048 * MIB, perSecond: 256 * MIB },
        async () => mustBeOk(await site.pull(last, IMAGE.name, IMAGE.tag)),
      )
      const link = plain.bytes / plain.ms
      // Before that, the daemon has to find out that upstream cannot be asked for the tag.
      const shoal = report.bytes / (report.totalMs - report.manifestMs)
      say(
        `  nginx ${rate(link)}, the fifth node ${rate(shoal)}, manifest after ${seconds(report.manifestMs)}`,
      )
      const rows: Row[] = [
        {
          criterion: 'store 1',
          what: "Shoal's own blocks beside what containerd has of 256 MiB",
          baseline: '-',
          shoal: mebibytes(most),
          figure: percent(most / bytes, 2),
          target: '< 2 %',
          ok: most < 0.02 * bytes,
        },
        {
          criterion: 'store 1',
          what: 'a fifth node pulls it from them over 1 Gbit/s, uplink cut, from the manifest on',
          baseline: `${rate(link)} (nginx)`,
          shoal: rate(shoal),
          figure: percent(shoal / link),
          target: '>= 85 %',
          ok: shoal >= 0.85 * link,
        },
      ]
      return rows
    }),
}
