import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { digestOf } from '../../base/index.ts'
import { createLab, type Lab, type Site, startSite } from '../lab/index.ts'
import { explained, lacking } from './support.ts'

const LOCAL = '127.0.0.1:5080/local'

/** Adds a layer to an image in skopeo's `dir:` form. */
function addLayer(dir: string, file: string): void {
  const bytes = readFileSync(file)
  const digest = digestOf(bytes)
  const path = join(dir, 'manifest.json')
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as {
    layers: object[]
    config: { digest: string; size: number }
  }
  manifest.layers.push({ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: bytes.length })
  const configPath = join(dir, manifest.config.digest.slice('sha256:'.length))
  const config = JSON.parse(readFileSync(configPath, 'utf8')) as { rootfs: { diff_ids: string[] } }
  config.rootfs.diff_ids.push(digest)
  const changed = Buffer.from(JSON.stringify(config))
  manifest.config = { ...manifest.config, digest: digestOf(changed), size: changed.length }
  writeFileSync(join(dir, digestOf(changed).slice('sha256:'.length)), changed)
  writeFileSync(join(dir, digest.slice('sha256:'.length)), bytes)
  writeFileSync(path, JSON.stringify(manifest))
}

/** No upstream has what is pushed here: real clients push on the first of three nodes and pull on another. */
describe('images are pushed to local/', { skip: lacking('docker', 'dockerd', 'podman', 'skopeo') }, () => {
  let lab: Lab
  let site: Site
  const images = ['lab/oci:1', 'lab/multi:1']

  before(async () => {
    lab = await createLab({ hosts: 3 })
    const common = { tag: '1', layers: [3e6, 1e6], runnable: true }
    await lab.push([
      { ...common, name: 'lab/oci' },
      { ...common, name: 'lab/multi', platforms: ['linux/arm64', 'linux/s390x'] },
    ])
    // The first node's registry is open to other machines.
    site = await startSite(lab, (i) => (i === 0 ? { flags: ['--registry', '0.0.0.0:5080'] } : {}))
  })
  after(() => lab?.destroy())

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)
  const skopeo = (i: number, ...args: string[]) =>
    lab.hosts[i]!.exec(['skopeo', ...args]).then(({ stdout }) => stdout)
  const inspect = (i: number, name: string) =>
    skopeo(i, 'inspect', '--raw', '--tls-verify=false', `docker://${LOCAL}/${name}`)
  const tokenOf = (i: number): string =>
    readFileSync(join(lab.hosts[i]!.dir, 'shoal/api.token'), 'utf8').trim()
  const curl = (i: number, ...args: string[]) =>
    lab.hosts[i]!.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', ...args]).then(
      ({ stdout }) => stdout,
    )

  test(
    'skopeo: one image and a whole index, past the mirror and back',
    logged(async () => {
      for (const image of images) {
        const source = `docker://127.0.0.1:5080/docker.io/${image}`
        const target = `docker://${LOCAL}/skopeo/${image}`
        const tls = ['--src-tls-verify=false', '--dest-tls-verify=false']
        await skopeo(0, 'copy', '--all', ...tls, source, target)
        const there = await skopeo(0, 'inspect', '--raw', '--tls-verify=false', source)
        for (const i of [0, 1, 2]) assert.equal(await inspect(i, `skopeo/${image}`), there)
      }
      const dir = `dir:${lab.hosts[1]!.dir}/copy`
      await skopeo(1, 'copy', '--all', '--src-tls-verify=false', `docker://${LOCAL}/skopeo/lab/multi:1`, dir)
      const tags = await skopeo(2, 'list-tags', '--tls-verify=false', `docker://${LOCAL}/skopeo/lab/multi`)
      assert.deepEqual(JSON.parse(tags).Tags, ['1'])
    }),
  )

  test(
    'docker pushes, docker on another node pulls and runs',
    logged(async () => {
      const here = await lab.hosts[0]!.dockerd()
      const afar = `${lab.hosts[0]!.address}:5080`
      const there = await lab.hosts[1]!.dockerd({ insecure: [afar] })
      const name = `${LOCAL}/docker/app:v1`
      await here.docker(['pull', '127.0.0.1:5080/docker.io/lab/oci:1'])
      await here.docker(['tag', '127.0.0.1:5080/docker.io/lab/oci:1', name])
      await here.docker(['push', name])
      await there.docker(['pull', name])
      assert.equal((await there.runImage(name)).stdout, 'hello from lab/oci:1\n')
      // Layers are known by now: they are mounted, or not sent again.
      await here.docker(['tag', name, `${LOCAL}/docker/other:v1`])
      await here.docker(['push', `${LOCAL}/docker/other:v1`])
      // Over the network: everybody pulls, and who has logged in pushes.
      await there.docker(['pull', `${afar}/docker.io/lab/oci:1`])
      await there.docker(['tag', name, `${afar}/local/docker/afar:v1`])
      const push = ['push', `${afar}/local/docker/afar:v1`]
      const refused = await there.docker(push, { mayFail: true })
      assert.match(refused.stdout + refused.stderr, /needs the token|denied|unauthorized/i)
      const config = ['--config', join(lab.hosts[1]!.dir, 'docker-config')]
      const login = (password: string) =>
        there.docker([...config, 'login', '-u', 'anybody', '-p', password, afar], { mayFail: true })
      assert.notEqual((await login('wrong')).code, 0)
      assert.equal((await login(tokenOf(0))).code, 0)
      await there.docker([...config, ...push])
      await here.docker(['pull', `${LOCAL}/docker/afar:v1`])
      await here.stop()
      await there.stop()
    }),
  )

  test(
    'podman pushes in both formats, podman on another node pulls and runs',
    logged(async () => {
      const here = lab.hosts[0]!.podman()
      const there = lab.hosts[1]!.podman()
      await here.podman(['pull', '--tls-verify=false', '127.0.0.1:5080/docker.io/lab/oci:1'])
      for (const format of ['oci', 'v2s2']) {
        const name = `${LOCAL}/podman/app:${format}`
        await here.podman([
          'push',
          '--tls-verify=false',
          '--format',
          format,
          '127.0.0.1:5080/docker.io/lab/oci:1',
          name,
        ])
        await there.podman(['pull', '--tls-verify=false', name])
        assert.equal((await there.runImage(name)).stdout, 'hello from lab/oci:1\n')
      }
    }),
  )

  // crane and oras are no packages of Debian 12: they are tried where somebody has installed them.
  if (!lacking('crane'))
    test(
      'crane pushes, lists, pulls and deletes',
      logged(async () => {
        const host = lab.hosts[0]!
        const crane = (...args: string[]) => host.exec(['crane', '--insecure', ...args])
        const name = `${LOCAL}/crane/app:v1`
        await crane('copy', '127.0.0.1:5080/docker.io/lab/multi:1', name)
        assert.equal((await crane('ls', `${LOCAL}/crane/app`)).stdout, 'v1\n')
        await crane('pull', name, join(host.dir, 'crane.tar'))
        await crane('push', join(host.dir, 'crane.tar'), `${LOCAL}/crane/again:v1`)
        await crane('validate', '--remote', `${LOCAL}/crane/again:v1`)
        const { stdout } = await crane('digest', name)
        await crane('delete', `${LOCAL}/crane/app@${stdout.trim()}`)
        assert.equal((await crane('ls', `${LOCAL}/crane/app`)).stdout, '')
      }),
    )

  if (!lacking('oras'))
    test(
      'oras pushes an artifact, attaches another to it, finds and pulls it',
      logged(async () => {
        const host = lab.hosts[0]!
        const oras = (...args: string[]) => host.exec(['oras', ...args])
        writeFileSync(join(host.dir, 'note.txt'), 'a note')
        const note = [
          '--disable-path-validation',
          '--plain-http',
          `${LOCAL}/oras/note:v1`,
          join(host.dir, 'note.txt'),
        ]
        await oras('push', ...note)
        await oras('attach', '--artifact-type', 'application/x-note', ...note)
        const { stdout } = await oras('discover', '--plain-http', '-o', 'json', `${LOCAL}/oras/note:v1`)
        assert.match(stdout, /application\/x-note/)
        await oras('pull', '--plain-http', '-o', join(host.dir, 'oras'), `${LOCAL}/oras/note:v1`)
      }),
    )

  test(
    'who is on another machine needs the token to push, and none to read',
    logged(async () => {
      const url = `http://127.0.0.1:5080/v2/local/token/blobs/uploads/`
      // Through a proxy of this machine it could be anybody.
      const proxied = ['-H', 'X-Forwarded-For: 192.0.2.1', '-X', 'POST', url]
      assert.equal(await curl(0, ...proxied), '401')
      const token = tokenOf(0)
      assert.equal(await curl(0, '-u', `shoal:${token}`, ...proxied), '202')
      assert.equal(await curl(0, '-H', `Authorization: Bearer ${token}`, ...proxied), '202')
      assert.equal(await curl(0, '-u', 'shoal:wrong', ...proxied), '401')
      assert.equal(await curl(0, '-H', 'Origin: http://evil.test', '-X', 'POST', url), '403')
      assert.equal(await curl(0, '-H', 'Host: evil.test', '-X', 'POST', url), '403')
      const read = [
        '-H',
        'X-Forwarded-For: 192.0.2.1',
        'http://127.0.0.1:5080/v2/local/skopeo/lab/oci/tags/list',
      ]
      assert.equal(await curl(0, ...read), '200')
    }),
  )

  test(
    'podman and skopeo log in at another machine and push there; who has not logged in reads',
    logged(async () => {
      const host = lab.hosts[1]!
      const afar = `${lab.hosts[0]!.address}:5080`
      const authfile = ['--authfile', join(host.dir, 'auth.json')]
      const { podman } = host.podman()
      const [from, tls] = [`docker://${afar}/docker.io/lab/oci:1`, '--src-tls-verify=false']
      const to = (name: string) => ['--dest-tls-verify=false', `docker://${afar}/local/afar/${name}`]
      const copy = (...args: string[]) => host.exec(['skopeo', 'copy', tls, ...args], { mayFail: true })
      const refused = await copy(from, ...to('none:v1'))
      assert.notEqual(refused.code, 0)
      assert.match(refused.stderr, /needs the token|unauthorized|denied/i)
      for (const [command, target] of [
        [podman, 'podman:v1'],
        [(args: string[]) => host.exec(['skopeo', ...args]), 'skopeo:v1'],
      ] as const) {
        await command(['login', '--tls-verify=false', ...authfile, '-u', 'x', '-p', tokenOf(0), afar])
        const copied = await copy(...authfile, from, ...to(target))
        assert.equal(copied.code, 0, copied.stderr)
        assert.notEqual(await inspect(2, `afar/${target}`), '')
        await command(['logout', ...authfile, afar])
      }
    }),
  )

  test(
    'what was acknowledged is pulled from the others when the node that took it is killed right after',
    logged(async () => {
      const layer = join(lab.hosts[0]!.dir, 'layer')
      writeFileSync(layer, randomBytes(20e6))
      const tar = ['tar', '-C', lab.hosts[0]!.dir, '-cf', `${layer}.tar`, 'layer']
      await lab.hosts[0]!.exec(tar)
      const source = `dir:${lab.hosts[0]!.dir}/large`
      const from = ['--src-tls-verify=false', 'docker://127.0.0.1:5080/docker.io/lab/oci:1']
      await skopeo(0, 'copy', ...from, source)
      addLayer(`${lab.hosts[0]!.dir}/large`, `${layer}.tar`)
      await skopeo(0, 'copy', '--dest-tls-verify=false', source, `docker://${LOCAL}/large:v1`)
      site.nodes[0]!.kill('SIGKILL')
      await lab.cutUplink()
      for (const i of [1, 2]) {
        const begun = Date.now()
        assert.equal(await curl(i, '-I', `http://${LOCAL.replace('/', '/v2/')}/large/manifests/v1`), '200')
        const waited = Date.now() - begun
        assert.ok(waited < 5000, `the manifest took ${waited} ms`)
        const report = await site.pull(i, 'large', 'v1', { upstream: 'local' })
        assert.ok(report.ok, report.error)
        assert.ok(report.bytes > 20e6)
      }
      await lab.restoreUplink()
      await site.restart(0)
    }),
  )

  test(
    'a daemon that is killed over a push starts without litter, and has what was acknowledged',
    logged(async () => {
      const before = await inspect(0, 'skopeo/lab/oci:1')
      const url = 'http://127.0.0.1:5080'
      const begun = ['-s', '-D', '-', '-o', '/dev/null', '-X', 'POST', `${url}/v2/local/x/blobs/uploads/`]
      const { stdout } = await lab.hosts[0]!.exec(['curl', ...begun])
      const place = /^location: (\S+)/im.exec(stdout)?.[1]
      const slow = `(head -c 5000000 /dev/zero; sleep 10) | curl -s -T - -X PATCH ${url}${place}`
      const pushing = lab.hosts[0]!.exec(['timeout', '60', 'sh', '-c', slow], { mayFail: true })
      const uploads = join(lab.hosts[0]!.dir, 'shoal/uploads')
      for (let i = 0; i < 600 && readdirSync(uploads).length === 0; i++) {
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
      assert.equal(readdirSync(uploads).length, 1)
      site.nodes[0]!.kill('SIGKILL')
      await pushing
      await site.restart(0)
      assert.deepEqual(readdirSync(uploads), [])
      assert.equal(await inspect(0, 'skopeo/lab/oci:1'), before)
      const view = (await site.nodes[0]!.api('/api/v1/local')) as { name: string; tags: { tag: string }[] }[]
      assert.ok(view.some(({ name, tags }) => name === 'local/skopeo/lab/oci' && tags[0]?.tag === '1'))
    }),
  )
})
