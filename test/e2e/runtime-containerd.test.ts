import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe } from 'node:test'
import { silentLog } from '../../base/index.ts'
import {
  type ContainerdClient,
  connectContainerd,
  createContainer,
  startContainer,
} from '../../integration/runtime/containerd/index.ts'
import { createRuntimes, type Runtime, type Runtimes } from '../../integration/runtime/index.ts'
import { type ContractKit, testRuntimeContract } from '../integration/runtime-contract.ts'
import { type Containerd, createLab, type Lab } from '../lab/index.ts'
import { lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'

describe('the containerd driver', { skip: lacking('containerd', 'ctr', 'runc', 'criu') }, () => {
  const signal = AbortSignal.timeout(10 * 60_000)
  let lab: Lab
  let containerds: Containerd[]
  let client: ContainerdClient
  let runtimes: Runtimes[]
  let kit: ContractKit
  const path = process.env.PATH

  before(async () => {
    lab = await createLab({ hosts: 2 })
    await lab.push([{ name: 'lab/app', tag: '1', layers: [1000], runnable: true }])
    containerds = await Promise.all(lab.hosts.map((host) => host.containerd()))
    containerds[0]!.mirror('docker.io', [lab.cloud.registry])
    await containerds[0]!.pull(IMAGE)
    await lab.hosts[1]!.shoal()
    // The drivers live in this process, outside of the lab: what they call must be inside.
    const bin = join(lab.dir, 'bin')
    mkdirSync(bin)
    writeFileSync(
      join(bin, 'ctr'),
      `#!/bin/sh\nexec nsenter --net=/run/netns/${lab.hosts[1]!.netns} /usr/bin/ctr "$@"\n`,
    )
    chmodSync(join(bin, 'ctr'), 0o755)
    process.env.PATH = `${bin}:${path}`
    client = connectContainerd(containerds[0]!)
    runtimes = containerds.map((containerd, i) =>
      createRuntimes({
        containerd,
        registry: '127.0.0.1:5080',
        dir: join(lab.dir, `driver-${i}`),
        log: silentLog(),
      }),
    )
    const [source, target] = (await Promise.all(runtimes.map((one) => one.get('containerd')))) as [
      Runtime,
      Runtime,
    ]
    kit = {
      source,
      target,
      image: IMAGE,
      async start({ name, script, shared, netns }) {
        await createContainer({
          client,
          image: IMAGE,
          id: name,
          args: ['/bin/busybox', 'sh', '-c', script],
          cgroupParent: `/${lab.name}`,
          ...(netns === undefined ? {} : { netns }),
          ...(shared === undefined
            ? {}
            : { mounts: [{ source: shared, destination: '/shared', readonly: false }] }),
          signal,
        })
        await startContainer({ client, id: name, log: join(lab.dir, `${name}.log`), signal })
        return name
      },
    }
  })
  after(async () => {
    process.env.PATH = path
    client?.close()
    for (const one of runtimes ?? []) await one.close()
    await lab?.destroy()
  })

  testRuntimeContract(() => kit)
})
