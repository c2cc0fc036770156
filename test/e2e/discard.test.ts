import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import {
  type Containerd,
  createLab,
  criPull,
  type Lab,
  type Pushed,
  type Site,
  startSite,
  until,
} from '../lab/index.ts'
import { assertWhole, explained, lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'

/** As on a Kubernetes node: a kubelet has containerd pull, and containerd removes each layer when it is unpacked. */
describe('layers that containerd discards stay with Shoal', { skip: lacking('containerd', 'ctr') }, () => {
  let lab: Lab
  let site: Site
  let image: Pushed
  let containerd: Containerd

  before(async () => {
    lab = await createLab({ hosts: 2 })
    const [pushed] = await lab.push([
      { name: 'lab/app', tag: '1', layers: [20e6, 5e6, 1000], runnable: true },
    ])
    image = pushed!
    containerd = await lab.hosts[0]!.containerd({ discard: true })
    containerd.mirror('docker.io', ['http://127.0.0.1:5080'])
    site = await startSite(lab, (i) => ({
      flags: i === 0 ? ['--containerd-root', containerd.root, '--containerd', containerd.address] : [],
    }))
  })
  after(() => lab?.destroy())

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)
  const layers = (): number => image.layers.reduce((sum, layer) => sum + layer.size, 0)
  const fileOf = (digest: string): string =>
    join(containerd.root, 'io.containerd.content.v1.content/blobs/sha256', digest.slice('sha256:'.length))

  test(
    'a pull by the kubelet: containerd removes the layers, and Shoal has them',
    logged(async () => {
      await until('the node knows', () => site.logs().includes('removes layers that it has unpacked'))
      assert.equal(await criPull(containerd.address, IMAGE), image.config)
      await until('the layers are gone', () =>
        image.layers.every(({ digest }) => !existsSync(fileOf(digest))),
      )
      assert.ok(existsSync(fileOf(image.digest)), 'the manifest has gone, too')
      const { store, totals } = await site.status(0)
      assert.ok(store.bytes >= layers(), `${store.bytes} bytes of ${layers()} are here`)
      assert.ok(totals.upstream >= layers())
    }),
  )

  test(
    'a neighbour gets them with the uplink cut, and so does the node itself',
    logged(async () => {
      await lab.cutUplink()
      assertWhole(await site.pull(1, 'lab/app', '1'), image)
      assert.equal((await site.status(1)).totals.upstream, 0)
      await containerd.ctr(['--namespace', 'k8s.io', 'images', 'rm', '--sync', IMAGE])
      const before = (await site.status(0)).totals.upstream
      assert.equal(await criPull(containerd.address, IMAGE), image.config)
      assert.equal((await site.status(0)).totals.upstream, before)
    }),
  )
})
