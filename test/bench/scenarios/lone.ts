import { startSite } from '../../lab/index.ts'
import { median, type Row, type Scenario, seconds, times } from '../report.ts'
import { direct, inLab, layersOf, memoryRow, mustBeOk } from './common.ts'

export const lone: Scenario = {
  name: 'lone',
  about: 'a lone node pulls 256 MiB, cold, over an uplink of 1 Gbit/s',
  run: ({ runs, say }) =>
    inLab({ hosts: 1, uplink: { rate: '1gbit', shared: true }, lan: null }, async (lab) => {
      const large = Array.from({ length: runs }, (_, i) => ({
        name: 'lab/lone',
        tag: `${i}`,
        layers: layersOf(256, 4),
      }))
      // One blob at a time: what is compared is the wait for the first byte, not the queue before it.
      const small = large.map(({ tag }) => ({ name: 'lab/first', tag, layers: layersOf(24, 6) }))
      await lab.push([...large, ...small])
      const site = await startSite(lab)
      const alone: number[] = []
      const shoal: number[] = []
      const later: number[] = []
      const firstAlone: number[] = []
      const firstShoal: number[] = []
      for (const [i, { name, tag }] of large.entries()) {
        // Taking turns at going first keeps caches from favouring one of the two.
        const through = async () => shoal.push(mustBeOk(await site.pull(0, name, tag)).totalMs)
        const plain = async () => alone.push((await direct(lab, 0, name, tag)).totalMs)
        for (const one of i % 2 === 0 ? [plain, through] : [through, plain]) await one()
        const without = await direct(lab, 0, 'lab/first', tag, 1)
        const withShoal = mustBeOk(await site.pull(0, 'lab/first', tag, { concurrency: 1 }))
        const first = new Map(without.blobs.map((blob) => [blob.digest, blob.firstByteMs]))
        firstAlone.push(...without.blobs.map((blob) => blob.firstByteMs))
        firstShoal.push(...withShoal.blobs.map((blob) => blob.firstByteMs))
        later.push(...withShoal.blobs.map((blob) => blob.firstByteMs - first.get(blob.digest)!))
        say(
          `  direct ${seconds(alone.at(-1)!)}, Shoal ${seconds(shoal.at(-1)!)}, first byte +${median(later).toFixed(1)} ms`,
        )
      }
      const ratio = median(shoal) / median(alone)
      const delay = Math.max(...later)
      const rows: Row[] = [
        {
          criterion: '5',
          what: 'cold pull of 256 MiB by a lone node over 1 Gbit/s',
          baseline: seconds(median(alone)),
          shoal: seconds(median(shoal)),
          figure: times(ratio),
          target: '<= 1.10x',
          ok: ratio <= 1.1,
        },
        {
          criterion: '5',
          what: 'first byte of a blob, later than upstream (worst of all)',
          baseline: `${median(firstAlone).toFixed(1)} ms`,
          shoal: `${median(firstShoal).toFixed(1)} ms`,
          figure: `${delay.toFixed(1)} ms`,
          target: '<= 50 ms',
          ok: delay <= 50,
        },
        memoryRow('lone node at 1 Gbit/s', site),
      ]
      return rows
    }),
}
