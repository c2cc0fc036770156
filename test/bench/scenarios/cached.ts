import { join } from 'node:path'
import { startSite } from '../../lab/index.ts'
import { median, type Row, type Scenario, seconds, times } from '../report.ts'
import { inLab, MIB, memoryRow, mustBeOk } from './common.ts'
import { curlMs, startNginx } from './nginx.ts'

export const cached: Scenario = {
  name: 'cached',
  about: 'a blob of 256 MiB that is in the store, over loopback, against nginx with the same file',
  run: ({ runs, say }) =>
    inLab({ hosts: 1, lan: null }, async (lab) => {
      const host = lab.hosts[0]!
      const [pushed] = await lab.push([{ name: 'lab/cached', tag: '1', layers: [256 * MIB] }])
      const { digest } = pushed!.layers[0]!
      const site = await startSite(lab)
      mustBeOk(await site.pull(0, 'lab/cached', '1'))
      const nginx = await startNginx(host)
      const upstream = `${lab.cloud.registry}/v2/lab/cached/blobs/${digest}`
      await host.exec(['curl', '-sf', '-o', join(nginx.root, 'blob'), upstream])
      const plain: number[] = []
      const shoal: number[] = []
      // Short runs: more of them. The first of each warms the page cache and does not count.
      for (let i = 0; i <= runs * 2; i++) {
        const one = await curlMs(host, nginx.url('127.0.0.1', 'blob'))
        const other = await curlMs(host, `${site.nodes[0]!.registry}/docker.io/lab/cached/blobs/${digest}`)
        if (i === 0) continue
        plain.push(one.ms)
        shoal.push(other.ms)
        say(`  nginx ${seconds(one.ms)}, Shoal ${seconds(other.ms)}`)
      }
      const ratio = median(shoal) / median(plain)
      const rows: Row[] = [
        {
          criterion: '6',
          what: 'cached blob of 256 MiB over loopback',
          baseline: `${seconds(median(plain))} (nginx)`,
          shoal: seconds(median(shoal)),
          figure: times(ratio),
          target: '<= 3x',
          ok: ratio <= 3,
        },
        memoryRow('cached blob', site),
      ]
      return rows
    }),
}
