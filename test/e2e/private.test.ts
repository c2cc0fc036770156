import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { createLab, LAB_USER, type Lab, type Pushed, type Site, startSite } from '../lab/index.ts'
import { assertWhole, explained, lacking } from './support.ts'

const UPSTREAM = 'private.lab'

describe('a private repository', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let image: Pushed

  before(async () => {
    lab = await createLab({ hosts: 2, privateRegistry: true })
    image = (await lab.push([{ name: 'lab/secret', tag: '1', layers: [2e6, 2e6] }], { private: true }))[0]!
    site = await startSite(lab, { upstreams: [`${UPSTREAM}=${lab.cloud.privateRegistry}`] })
  })
  after(() => lab?.destroy())

  const pull = (node: number, auth?: string) =>
    site.pull(node, 'lab/secret', '1', { upstream: UPSTREAM, ...(auth === undefined ? {} : { auth }) })

  /** Status of a request for the image's parts, with these credentials. */
  const statusOf = async (node: number, path: string, auth?: string) => {
    const url = `${site.nodes[node]!.registry}/${UPSTREAM}/lab/secret/${path}`
    const login = auth === undefined ? [] : ['-u', auth]
    const accept = ['-H', 'Accept: application/vnd.oci.image.manifest.v1+json']
    const ask = ['curl', '-s', '-m', '20', '-o', '/dev/null', '-w', '%{http_code} %{size_download}']
    const { stdout } = await lab.hosts[node]!.exec([...ask, ...accept, ...login, url])
    const [status, size] = stdout.split(' ').map(Number)
    return { status, size: size! }
  }

  const refused = async (node: number, auth?: string) => {
    const paths = [
      'manifests/1',
      `manifests/${image.digest}`,
      ...image.layers.map((l) => `blobs/${l.digest}`),
    ]
    for (const path of paths) {
      const { status, size } = await statusOf(node, path, auth)
      // 503: while upstream is down nobody can say who else may read it.
      assert.ok([401, 403, 404, 503].includes(status!), `${path}: ${status}`)
      assert.ok(size < 2000, 'an error, not the content')
    }
  }

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)

  test(
    'is refused to a client without credentials',
    logged(() => refused(0)),
  )

  test(
    'is served to a client with credentials, over both nodes',
    logged(async () => {
      assertWhole(await pull(0, LAB_USER), image)
      assertWhole(await pull(1, LAB_USER), image)
      assert.ok((await site.status(1)).totals.peersIn > image.bytes * 0.9)
    }),
  )

  test(
    'is still refused to others, although the nodes have it',
    logged(async () => {
      for (const node of [0, 1]) {
        await refused(node)
        await refused(node, 'lab:wrong')
        await refused(node, 'somebody:else')
      }
    }),
  )

  // skopeo, podman and docker send credentials only to a registry whose /v2/ asks for them, and the node's does not: it stands
  // for many upstreams. For them the node has the credentials.
  test(
    'skopeo gets it through a node whose docker config has the credentials, and not through another',
    { skip: lacking('skopeo') },
    logged(async () => {
      const copy = (node: number) => {
        const { dir, exec } = lab.hosts[node]!
        const source = `docker://127.0.0.1:5080/${UPSTREAM}/lab/secret:1`
        return exec(['skopeo', 'copy', '--src-tls-verify=false', source, `dir:${dir}/copy`], {
          mayFail: true,
        })
      }
      const file = join(lab.dir, 'config.json')
      const auth = Buffer.from(LAB_USER).toString('base64')
      writeFileSync(
        file,
        JSON.stringify({ auths: { [new URL(lab.cloud.privateRegistry).host]: { auth } } }),
        { mode: 0o600 },
      )
      await site.restart(1, { flags: ['--docker-config', file] })
      await site.heal()
      assert.equal((await copy(1)).code, 0)
      assert.notEqual((await copy(0)).code, 0)
      await site.restart(1)
      await site.heal()
    }),
  )

  test(
    'while upstream is down, who was entitled still is, and nobody else',
    logged(async () => {
      await lab.cutUplink()
      try {
        const { status } = await statusOf(0, `blobs/${image.layers[0]!.digest}`, LAB_USER)
        assert.equal(status, 200)
        await refused(0)
        await refused(0, 'lab:wrong')
      } finally {
        await lab.restoreUplink()
      }
    }),
  )
})
