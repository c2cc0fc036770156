import { type Lab, type Pushed, type Site, sleep, startAgent, startSite } from '../../lab/index.ts'
import { mebibytes, type Row, type Scenario, times } from '../report.ts'
import { inLab, mustBeOk } from './common.ts'
import { IMAGES, must } from './storage.ts'

const NODES = 8
const COPIES = 2
/** A site is quiet when it has sent nothing for so long. */
const QUIET_MS = 5000

const running = (site: Site): number[] => site.nodes.flatMap((node, i) => (node.service.running() ? [i] : []))

async function sent(site: Site): Promise<number> {
  const all = await Promise.all(running(site).map((i) => site.status(i)))
  return all.reduce((sum, { totals }) => sum + totals.peersOut, 0)
}

/** Copies are made until there is nothing left to do, and what is cache goes. */
async function repaired(site: Site): Promise<void> {
  const [first = 0] = running(site)
  for (let before = -1, now = await sent(site); now !== before; ) {
    await must(site, first, ['repair', '--now'])
    await sleep(QUIET_MS)
    before = now
    now = await sent(site)
  }
  for (const i of running(site)) await must(site, i, ['gc', '--all'])
}

async function join(lab: Lab, site: Site, all: number): Promise<Row> {
  const before = await sent(site)
  await site.join(lab.hosts[NODES]!)
  await repaired(site)
  const moved = (await sent(site)) - before
  const share = (await site.status(NODES)).store.bytes
  const ratio = moved / share
  return {
    criterion: 'store 4',
    what: `bytes that move when a node joins ${NODES}, ${COPIES} copies of 3 images`,
    baseline: `${mebibytes(share)} (its share; fair: ${mebibytes((COPIES * all) / (NODES + 1))})`,
    shoal: mebibytes(moved),
    figure: times(ratio),
    target: '<= 1.3x',
    ok: ratio <= 1.3,
  }
}

/** Every image on every node that is left, all nodes at once. Returns how many pulls were whole. */
async function everybodyPulls(site: Site, images: Pushed[], say: (line: string) => void): Promise<number> {
  let whole = 0
  await Promise.all(
    running(site).map(async (i) => {
      const agent = startAgent(site.hosts[i]!.netns)
      for (const [at, { name, tag }] of IMAGES.entries()) {
        try {
          const base = `${site.nodes[i]!.registry}/docker.io`
          const report = mustBeOk(await agent.pull({ base, name, reference: tag }))
          if (report.digest === images[at]!.digest && report.bytes === images[at]!.bytes) whole++
        } catch (error) {
          say(`  ${name}:${tag} on node ${i + 1}: ${error}`)
        }
      }
      agent.stop()
    }),
  )
  return whole
}

export const durable: Scenario = {
  name: 'durable',
  about:
    '2 copies of 3 images of 128 MiB on 8 nodes: a 9th joins; then one is killed, and after a repair a second',
  run: ({ say }) =>
    inLab({ hosts: NODES + 1, uplink: { rate: '1gbit', shared: true }, lan: '1gbit' }, async (lab) => {
      const images = await lab.push(IMAGES)
      const layers = new Map(
        images.flatMap((image) => image.layers.map(({ digest, size }) => [digest, size])),
      )
      const all = [...layers.values()].reduce((sum, size) => sum + size, 0)
      const site = await startSite(lab, {}, lab.hosts.slice(0, NODES))
      for (const { name, tag } of IMAGES) {
        await must(site, 0, ['store', `docker.io/${name}:${tag}`, '--copies', `${COPIES}`])
      }
      for (const i of running(site)) await must(site, i, ['gc', '--all'])
      const rows = [await join(lab, site, all)]
      say(`  joined: ${rows[0]!.figure}`)
      // The node that joined goes again: what is judged is a site of 8.
      const lose = async (i: number): Promise<void> => {
        site.nodes[i]!.kill('SIGKILL')
        await site.nodes[i]!.service.ended
      }
      await lose(NODES)
      await repaired(site)
      await lab.cutUplink()

      let pulls = 0
      let whole = 0
      const look = async (when: string): Promise<void> => {
        const found = await everybodyPulls(site, images, say)
        const wanted = running(site).length * images.length
        say(`  ${when}: ${found} of ${wanted} pulls were whole`)
        whole += found
        pulls += wanted
        for (const i of running(site)) await must(site, i, ['gc', '--all'])
      }
      for (const [at, victim] of [5, 2].entries()) {
        await lose(victim)
        await look(`at once after death ${at + 1}`)
        await repaired(site)
        await look(`after the repair`)
      }
      rows.push({
        criterion: 'store 3',
        what: 'whole pulls with the uplink cut, 2 copies, after two of 8 nodes died, one after the other',
        baseline: '-',
        shoal: `${whole} of ${pulls}`,
        figure: `${whole}/${pulls}`,
        target: 'all',
        ok: whole === pulls,
      })
      return rows
    }),
}
