import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createLab, type Lab, MEDIA, type Pushed, type Site, startSite } from '../lab/index.ts'
import { explained, lacking } from './support.ts'

const PROXY = '127.0.0.1:5080'

/** Two nodes; each runtime pulls a multi-arch index and single manifests (OCI and Docker) unmodified, and runs them. */
describe('container runtimes pull through Shoal', {
  skip: lacking('docker', 'dockerd', 'containerd', 'ctr', 'podman', 'skopeo'),
}, () => {
  let lab: Lab
  let site: Site
  const pushed = new Map<string, Pushed>()
  const images = ['lab/multi:1', 'lab/oci:1', 'lab/docker:1']

  before(async () => {
    lab = await createLab({ hosts: 2 })
    const common = { tag: '1', layers: [3e6, 1e6], runnable: true }
    const results = await lab.push([
      { ...common, name: 'lab/multi', platforms: ['linux/arm64', 'linux/s390x'] },
      { ...common, name: 'lab/oci' },
      { ...common, name: 'lab/docker', format: 'docker' },
    ])
    for (const [i, image] of images.entries()) pushed.set(image, results[i]!)
    site = await startSite(lab)
  })
  after(() => lab?.destroy())

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)

  test(
    'docker, through registry-mirrors and through the path prefix',
    logged(async () => {
      const dockerd = await lab.hosts[0]!.dockerd({ mirrors: [`http://${PROXY}`] })
      for (const image of images) {
        const prefixed = `${PROXY}/docker.io/${image}`
        for (const name of [image, prefixed]) {
          const { stdout } = await dockerd.docker(['pull', name])
          assert.match(stdout, new RegExp(pushed.get(image)!.digest))
          assert.equal((await dockerd.runImage(name)).stdout, `hello from ${image}\n`)
          await dockerd.docker(['rmi', name])
        }
      }
      await dockerd.stop()
      // docker falls back to the upstream it knows when a mirror fails: the bytes must have come through the node.
      const bytes = [...pushed.values()].reduce((sum, image) => sum + image.layers[1]!.size, 0)
      assert.ok((await site.status(0)).totals.upstream >= bytes)
    }),
  )

  test(
    'containerd, through hosts.toml',
    logged(async () => {
      const containerd = await lab.hosts[1]!.containerd()
      containerd.mirror('docker.io', [`http://${PROXY}`])
      for (const image of images) {
        await containerd.pull(`docker.io/${image}`)
        assert.equal((await containerd.runImage(`docker.io/${image}`)).stdout, `hello from ${image}\n`)
      }
      await containerd.stop()
      const { totals } = await site.status(1)
      assert.ok(totals.peersIn > 0, 'the second node takes from the first what the first has')
    }),
  )

  test(
    'podman, through the path prefix and through registries.conf',
    logged(async () => {
      const podman = lab.hosts[1]!.podman({ mirrors: [`${PROXY}/docker.io`] })
      for (const image of images) {
        for (const name of [`${PROXY}/docker.io/${image}`, `docker.io/${image}`]) {
          await podman.podman(['pull', '--tls-verify=false', name])
          assert.equal((await podman.runImage(name)).stdout, `hello from ${image}\n`)
        }
      }
    }),
  )

  test(
    'skopeo copies one image and a whole index',
    logged(async () => {
      const host = lab.hosts[0]!
      for (const image of images) {
        const source = `docker://${PROXY}/docker.io/${image}`
        await host.exec([
          'skopeo',
          'copy',
          '--src-tls-verify=false',
          source,
          `oci:${host.dir}/copy:${image.replace(/\W/g, '-')}`,
        ])
      }
      const { stdout } = await host.exec([
        'skopeo',
        'inspect',
        '--raw',
        '--tls-verify=false',
        `docker://${PROXY}/docker.io/lab/multi:1`,
      ])
      assert.equal(JSON.parse(stdout).mediaType, MEDIA.oci.index)
      await host.exec([
        'skopeo',
        'copy',
        '--all',
        '--src-tls-verify=false',
        `docker://${PROXY}/docker.io/lab/multi:1`,
        `dir:${host.dir}/all`,
      ])
    }),
  )

  test(
    'everything crossed the uplink once for both nodes',
    logged(async () => {
      const totals = await Promise.all([0, 1].map(async (i) => (await site.status(i)).totals.upstream))
      const blobs = new Map(
        [...pushed.values()].flatMap((image) => image.layers.map((l) => [l.digest, l.size] as const)),
      )
      const once = [...blobs.values()].reduce((sum, size) => sum + size, 0)
      const small = 400_000 // Manifests, configs and the other platforms' layers of 64 KiB.
      assert.ok(totals[0]! + totals[1]! <= once + small, `${totals} bytes from upstream, ${once} once`)
    }),
  )
})
