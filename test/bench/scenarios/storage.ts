import { writeFileSync } from 'node:fs'
import { type Site, startSite } from '../../lab/index.ts'
import { lineChart } from '../chart.ts'
import { mebibytes, type Row, type Scenario, times } from '../report.ts'
import { inLab, MIB } from './common.ts'

const NODES = [1, 2, 4, 8]
const COPIES = [1, 2]
export const IMAGES = ['a', 'b', 'c'].map((tag) => ({
  name: 'lab/storage',
  tag,
  layers: [{ size: 64 * MIB, seed: 'base' }, 32 * MIB, 32 * MIB],
}))
const CHART = new URL('../../../docs/storage.svg', import.meta.url)

interface Measured {
  nodes: number
  copies: number
  /** Bytes of all images, what they share counted once. */
  all: number
  /** Bytes of blocks on each node. */
  each: number[]
}

/** Runs `./shoal` on a node. */
export async function must(site: Site, node: number, args: string[]): Promise<string> {
  const { code, stdout, stderr } = await site.nodes[node]!.cli(args)
  if (code !== 0) throw new Error(`shoal ${args.join(' ')} on node ${node + 1}: ${stderr}`)
  return stdout
}

/** Stores the images with 1 copy, then with 2, and looks at each node's disk when what is cache has gone. */
function measure(nodes: number, say: (line: string) => void): Promise<Measured[]> {
  return inLab({ hosts: nodes, uplink: { rate: '1gbit', shared: true }, lan: '1gbit' }, async (lab) => {
    const pushed = await lab.push(IMAGES)
    const layers = new Map(pushed.flatMap((image) => image.layers.map(({ digest, size }) => [digest, size])))
    const all = [...layers.values()].reduce((sum, size) => sum + size, 0)
    const site = await startSite(lab)
    const measured: Measured[] = []
    for (const copies of COPIES.filter((count) => count <= nodes)) {
      for (const { name, tag } of IMAGES) {
        await must(site, 0, ['store', `docker.io/${name}:${tag}`, '--copies', `${copies}`])
      }
      const each: number[] = []
      for (const node of site.nodes.keys()) {
        await must(site, node, ['gc', '--all'])
        each.push((await site.status(node)).store.bytes)
      }
      measured.push({ nodes, copies, all, each })
      say(`  ${nodes} nodes, ${copies} copies: ${each.map(mebibytes).join(', ')}`)
    }
    return measured
  })
}

function rowOf({ nodes, copies, all, each }: Measured): Row {
  const fair = (all * copies) / nodes
  const most = Math.max(...each)
  return {
    criterion: 'store 2',
    what: `bytes a node, ${nodes} nodes, ${copies === 1 ? '1 copy' : `${copies} copies`} of 3 images`,
    baseline: `${mebibytes(all)} (all on each)`,
    shoal: `${mebibytes(Math.min(...each))} to ${mebibytes(most)}`,
    figure: `${times(most / fair)} of ${copies === 1 ? 'A/n' : `${copies}A/n`}`,
    target: '<= 1.15x',
    ok: most <= 1.15 * fair,
  }
}

function draw(measured: Measured[]): string {
  const all = (measured[0]?.all ?? 0) / MIB
  const fullest = (nodes: number, copies: number): number | undefined => {
    const found = measured.find((m) => m.nodes === nodes && m.copies === copies)
    return found && Math.max(...found.each) / MIB
  }
  return lineChart({
    title: 'Disk a node for 3 images of 128 MiB that share a base of 64 MiB',
    xLabel: 'nodes of the site',
    yLabel: 'MiB a node',
    xs: NODES,
    series: [
      { name: '1 copy, the fullest node', values: NODES.map((n) => fullest(n, 1)) },
      { name: '2 copies, the fullest node', values: NODES.map((n) => fullest(n, 2)) },
      { name: 'A/n', values: NODES.map((n) => all / n), reference: true },
      { name: '2A/n', values: NODES.map((n) => (n < 2 ? undefined : (2 * all) / n)), reference: true },
      { name: 'everything on each', values: NODES.map(() => all), reference: true },
    ],
  })
}

export const storage: Scenario = {
  name: 'storage',
  about: 'bytes a node for 3 stored images of 128 MiB that share a base layer; 1 to 8 nodes, 1 and 2 copies',
  async run({ say, write }) {
    const measured: Measured[] = []
    for (const nodes of NODES) measured.push(...(await measure(nodes, say)))
    if (write) writeFileSync(CHART, draw(measured))
    return measured.map(rowOf)
  },
}
