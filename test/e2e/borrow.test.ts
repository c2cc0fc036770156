import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import {
  type Containerd,
  createLab,
  type Lab,
  type Pushed,
  type Site,
  startSite,
  until,
} from '../lab/index.ts'
import { assertWhole, explained, lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'

/** Three nodes with containerd, and a fourth one that comes when the uplink is cut: no byte is on a node's disk twice. */
describe('content that containerd has is served from there', { skip: lacking('containerd', 'ctr') }, () => {
  let lab: Lab
  let site: Site
  let image: Pushed
  let containerds: Containerd[]

  before(async () => {
    lab = await createLab({ hosts: 4 })
    const [pushed] = await lab.push([
      { name: 'lab/app', tag: '1', layers: [40e6, 20e6, 3e6, 1000], runnable: true },
    ])
    image = pushed!
    containerds = await Promise.all(lab.hosts.map((host) => host.containerd()))
    for (const containerd of containerds) containerd.mirror('docker.io', ['http://127.0.0.1:5080'])
    site = await startSite(lab, (i) => ({
      flags: ['--containerd-root', containerds[i]!.root],
    }))
  })
  after(() => lab?.destroy())

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)
  const storeOf = async (i: number) => (await site.status(i)).store

  /** Everything that the node has of the image lies in containerd's files, but for less than 2 %. */
  const noDoubles = (i: number): Promise<unknown> =>
    until(
      `node ${i + 1} has no copies of its own`,
      async () => {
        const { bytes, borrowed } = await storeOf(i)
        return borrowed >= image.bytes * 0.98 && bytes < image.bytes * 0.02
      },
      { timeoutMs: 60_000 },
    )

  test(
    'after a pull by containerd, the own blocks go',
    logged(async () => {
      await Promise.all([0, 1, 2].map((i) => containerds[i]!.pull(IMAGE)))
      await Promise.all([0, 1, 2].map(noDoubles))
      assert.match(await site.nodes[0]!.metrics(), /^shoal_store_borrowed_bytes [1-9]/m)
    }),
  )

  test(
    'another node pulls it from them with the uplink cut, and a client from a node itself',
    logged(async () => {
      await lab.cutUplink()
      await containerds[3]!.pull(IMAGE)
      assert.equal((await containerds[3]!.runImage(IMAGE)).stdout, 'hello from lab/app:1\n')
      const { totals } = await site.status(3)
      assert.equal(totals.upstream, 0)
      assert.ok(totals.peersIn >= image.layers.reduce((sum, layer) => sum + layer.size, 0))
      await noDoubles(3)
      assertWhole(await site.pull(0, 'lab/app', '1'), image)
    }),
  )

  test(
    'a daemon that was killed still knows what it has borrowed',
    logged(async () => {
      const { kill, service } = site.nodes[1]!
      kill('SIGKILL')
      await service.ended
      await site.heal()
      const { bytes, borrowed } = await storeOf(1)
      assert.ok(borrowed >= image.bytes * 0.98 && bytes < image.bytes * 0.02)
    }),
  )

  test(
    'a removed layer and a removed image are noticed, and come from the others again',
    logged(async () => {
      const { ctr } = containerds[1]!
      const before = (await storeOf(1)).borrowed
      await ctr(['images', 'rm', '--sync', IMAGE])
      await until('node 2 has noticed', async () => (await storeOf(1)).borrowed === 0)
      assert.ok(before > 0)

      const layer = image.layers[1]!
      const had = (await storeOf(2)).borrowed
      await containerds[2]!.ctr(['content', 'rm', layer.digest])
      await until('node 3 has noticed', async () => (await storeOf(2)).borrowed <= had - layer.size)

      assertWhole(await site.pull(1, 'lab/app', '1'), image)
      assertWhole(await site.pull(2, 'lab/app', '1'), image)
      for (const i of [1, 2]) assert.equal((await site.status(i)).totals.upstream > image.bytes, false)
    }),
  )
})
