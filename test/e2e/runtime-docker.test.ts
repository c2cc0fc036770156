import { join } from 'node:path'
import { after, before, describe } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { createRuntimes, type Runtime, type Runtimes } from '../../integration/runtime/index.ts'
import { type ContractKit, testRuntimeContract } from '../integration/runtime-contract.ts'
import { createLab, type Dockerd, type Lab } from '../lab/index.ts'
import { lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'

/** Two dockerds of two hosts: what moves goes from one to the other, whose Shoal the image comes through. */
describe('the docker driver', { skip: lacking('containerd', 'dockerd', 'docker', 'runc', 'criu') }, () => {
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
})
