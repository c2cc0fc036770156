import assert from 'node:assert/strict'
import { mkdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { isShoalError, silentLog } from '../../base/index.ts'
import { createRuntimes, type Runtime, type Runtimes } from '../../integration/runtime/index.ts'
import { type ContractKit, testRuntimeContract } from '../integration/runtime-contract.ts'
import { createLab, type Dockerd, type Lab } from '../lab/index.ts'
import { lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'

/** Two dockerds of two hosts: what moves goes from one to the other, whose Shoal the image comes through. */
describe('the docker driver', { skip: lacking('containerd', 'dockerd', 'docker', 'runc', 'criu') }, () => {
  const signal = AbortSignal.timeout(10 * 60_000)
  let lab: Lab
  let dockerds: Dockerd[]
  let runtimes: Runtimes[]
  let kit: ContractKit

  before(async () => {
    lab = await createLab({ hosts: 2 })
    await lab.push([{ name: 'lab/app', tag: '1', layers: [1000], runnable: true }])
    dockerds = await Promise.all(
      lab.hosts.map((host, i) =>
        host.dockerd({ flags: ['--experimental'], ...(i === 0 ? { mirrors: [lab.cloud.registry] } : {}) }),
      ),
    )
    await dockerds[0]!.docker(['pull', IMAGE])
    await lab.hosts[1]!.shoal()
    runtimes = dockerds.map((docker, i) =>
      createRuntimes({
        docker,
        registry: '127.0.0.1:5080',
        dir: join(lab.dir, `driver-${i}`),
        log: silentLog(),
      }),
    )
    const [source, target] = (await Promise.all(runtimes.map((one) => one.get('docker')))) as [
      Runtime,
      Runtime,
    ]
    kit = {
      source,
      target,
      image: IMAGE,
      joins: false,
      async start({ name, script, shared }) {
        const volume = shared === undefined ? [] : ['--volume', `${shared}:/shared`]
        const flags = ['--detach', '--name', name, '--network', 'none', '--restart', 'always', ...volume]
        const { stdout } = await dockerds[0]!.docker([
          ...['run', ...flags, IMAGE],
          ...['/bin/busybox', 'sh', '-c', script],
        ])
        return stdout.trim()
      },
    }
  })
  after(async () => {
    for (const one of runtimes ?? []) await one.close()
    await lab?.destroy()
  })

  testRuntimeContract(() => kit)

  test('on the host’s network, with a restart policy: both are as they were, once it runs', async () => {
    const [source, target] = [kit.source, kit.target]
    const script =
      'i=0; while :; do i=$((i+1)); echo $i > /new; /bin/busybox mv /new /n; /bin/busybox usleep 50000; done'
    const flags = [
      '--detach',
      '--name',
      'hosted',
      '--network',
      'host',
      '--restart',
      'unless-stopped',
      '--rm=false',
    ]
    await dockerds[0]!.docker(['run', ...flags, '--memory', '64m', IMAGE, '/bin/busybox', 'sh', '-c', script])
    const { id } = await source.inspect('hosted', signal)
    await source.pause(id, signal)
    const dir = join(lab.dir, 'hosted-dump')
    mkdirSync(dir)
    await source.dump(id, { dir, leave: 'as-it-was' }, signal)
    const recreation = await source.describe(id, signal)
    assert.equal(recreation.image?.reference, IMAGE)
    assert.match(recreation.image?.digest ?? '', /^sha256:/)
    const prepared = await target.prepare({ name: 'hosted', recreation, image: IMAGE }, signal)
    const policy = async (which: Dockerd): Promise<string> => {
      const format = '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}'
      return (await which.docker(['inspect', 'hosted', '--format', format])).stdout.trim()
    }
    assert.equal(await policy(dockerds[1]!), 'no host 67108864')
    await prepared.applyWritable(await source.writable(id, signal), signal)
    await source.remove(id, signal)
    const { pid } = await prepared.start(dir, signal)
    assert.equal(await policy(dockerds[1]!), 'unless-stopped host 67108864')
    assert.ok(
      (await dockerds[1]!.docker(['images', '--format', '{{.Repository}}:{{.Tag}}'])).stdout.includes(
        'lab/app:1',
      ),
    )
    // Of the daemon's host, which is a namespace here.
    const daemon = dockerds[1]!.service.pid
    assert.equal(statSync(`/proc/${pid}/ns/net`).ino, statSync(`/proc/${daemon}/ns/net`).ino)
    assert.equal(await target.remove(prepared.id, signal), true)
  })

  test('a restore that fails tells what CRIU said', async () => {
    const [source, target] = [kit.source, kit.target]
    const id = await kit.start({ name: 'broken', script: 'while :; do /bin/busybox sleep 1; done' })
    const dir = join(lab.dir, 'broken-dump')
    mkdirSync(dir)
    await source.dump(id, { dir, leave: 'stopped' }, signal)
    const recreation = await source.describe(id, signal)
    const prepared = await target.prepare({ name: 'broken', recreation, image: IMAGE }, signal)
    await prepared.applyWritable(await source.writable(id, signal), signal)
    rmSync(join(dir, 'core-1.img'))
    await assert.rejects(
      prepared.start(dir, signal),
      (error) => isShoalError(error, 'RUNTIME') && /empty-image|core-1/.test(error.message),
    )
    assert.equal((await target.inspect(prepared.id, signal)).pid, undefined)
    await prepared.discard(signal)
    await source.remove(id, signal)
  })
})
