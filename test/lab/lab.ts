import { randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FakeAuth } from '../fakes/registry.ts'
import type { PullOptions, PullReport } from './client.ts'
import { type FakeUpstream, startFakeUpstream } from './fake.ts'
import type { ImageSpec } from './image.ts'
import { createNetwork, type Uplink, type UplinkCounters } from './network.ts'
import type { Pushed } from './push.ts'
import { LAB_USER, startRegistry } from './registry.ts'
import {
  type Containerd,
  createPodman,
  type Dockerd,
  type Podman,
  startContainerd,
  startDockerd,
} from './runtimes.ts'
import { inside, type RunOptions, type RunResult, run, type Service } from './sh.ts'
import { type ShoalNode, type ShoalOptions, startShoal } from './shoal.ts'
import { nameLab } from './state.ts'
import { sweep, sweepStale } from './sweep.ts'

export interface LabOptions {
  hosts: number
  uplink?: Uplink
  /** Rate of every host's link to the LAN; default 1gbit; null: not shaped. */
  lan?: string | null
  /** A second registry on port 5001 of the cloud that wants the lab's user. */
  privateRegistry?: boolean
}

export interface Host {
  name: string
  netns: string
  dir: string
  address: string
  exec(command: string[], options?: RunOptions): Promise<RunResult>
  /** Starts the daemon; its upstreams are `docker.io` and `cloud.lab`, both the lab's registry, unless given. */
  shoal(options?: ShoalOptions): Promise<ShoalNode>
  /** `discard`: with the kubelet's interface, and layers removed once they are unpacked. */
  containerd(options?: { discard?: boolean }): Promise<Containerd>
  dockerd(options?: {
    mirrors?: string[]
    insecure?: string[]
    flags?: string[]
    bridge?: boolean
  }): Promise<Dockerd>
  podman(options?: { mirrors?: string[] }): Podman
  /** Pulls with the lab's client in a process of its own on this host. */
  pull(options: PullOptions & { at?: number; timeoutMs?: number }): Promise<PullReport>
  cutLan(): Promise<void>
  restoreLan(): Promise<void>
}

export interface Lab {
  name: string
  dir: string
  hosts: Host[]
  cloud: { netns: string; address: string; registry: string; privateRegistry: string }
  /** The file with the site's cluster key. */
  clusterKey: string
  /** Runs something in the cloud. */
  exec(command: string[], options?: RunOptions): Promise<RunResult>
  /** Makes images and pushes them to the cloud's registry (or its private one), past the uplink. */
  push(images: ImageSpec[], options?: { private?: boolean }): Promise<Pushed[]>
  /** Starts the misbehaving registry of test/fakes in the cloud, behind the same uplink as the real one. */
  fakeUpstream(options?: { bytesPerSecond?: number; auth?: FakeAuth }): Promise<FakeUpstream>
  uplink(): Promise<UplinkCounters>
  cutUplink(): Promise<void>
  restoreUplink(): Promise<void>
  /** Ends the cloud's registries, for good. */
  stopRegistry(): Promise<void>
  /** Ends and removes everything of this lab. */
  destroy(): Promise<void>
}

const HERE = fileURLToPath(new URL('.', import.meta.url))

export async function createLab(options: LabOptions): Promise<Lab> {
  await sweepStale()
  const label = nameLab()
  try {
    return await build(label, options)
  } catch (error) {
    await sweep(label)
    throw error
  }
}

async function build(label: { name: string; dir: string }, options: LabOptions): Promise<Lab> {
  const { name, dir } = label
  const network = await createNetwork({
    name,
    hosts: options.hosts,
    uplink: options.uplink ?? 'none',
    lan: options.lan === null ? undefined : (options.lan ?? '1gbit'),
  })
  const { cloud, cloudAddress } = network
  const ports = options.privateRegistry ? [5000, 5001] : [5000]
  const services: Service[] = await Promise.all(
    ports.map((port) =>
      startRegistry({
        netns: cloud,
        dir: join(dir, `registry-${port}`),
        address: cloudAddress,
        port,
        private: port === 5001,
      }),
    ),
  )
  const clusterKey = join(dir, 'cluster.key')
  writeFileSync(clusterKey, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 })
  let fakePort = 5002
  const registry = `http://${cloudAddress}:5000`
  const privateRegistry = `http://${cloudAddress}:5001`

  const hosts = network.hosts.map(({ netns, address }, i): Host => {
    const place = { netns, name: `h${i + 1}`, dir: join(dir, `h${i + 1}`), address }
    mkdirSync(place.dir)
    const sub = (what: string) => ({ netns, lab: name, dir: join(place.dir, what) })
    return {
      ...place,
      exec: (command, opts) => run(command, { netns, ...opts }),
      shoal: (opts = {}) =>
        startShoal(place, {
          upstreams: [`docker.io=${registry}`, `cloud.lab=${registry}`],
          clusterKey,
          bootstrap: i === 0 ? [] : [`/ip4/${network.hosts[0]!.address}/tcp/5082`],
          ...opts,
        }),
      containerd: (opts) => startContainerd(sub('containerd'), opts),
      dockerd: (opts) => startDockerd(sub('docker'), opts),
      podman: (opts) => createPodman(sub('podman'), opts),
      pull: (opts) => pullProcess(netns, opts),
      cutLan: () => network.lan(i, false),
      restoreLan: () => network.lan(i, true),
    }
  })

  return {
    name,
    dir,
    hosts,
    cloud: { netns: cloud, address: cloudAddress, registry, privateRegistry },
    clusterKey,
    exec: (command, opts) => run(command, { netns: cloud, ...opts }),
    async push(images, where = {}) {
      const target = where.private
        ? [privateRegistry, JSON.stringify(images), LAB_USER]
        : [registry, JSON.stringify(images)]
      const { stdout } = await run([process.execPath, join(HERE, 'push.ts'), ...target], { netns: cloud })
      return JSON.parse(stdout) as Pushed[]
    },
    fakeUpstream: (opts = {}) => startFakeUpstream(cloud, { host: cloudAddress, port: fakePort++, ...opts }),
    uplink: () => network.counters(),
    cutUplink: () => network.uplink(false),
    restoreUplink: () => network.uplink(true),
    async stopRegistry() {
      await Promise.all(services.map((service) => service.stop(500)))
    },
    async destroy() {
      await Promise.all(services.map((service) => service.stop(500)))
      await sweep(label)
    },
  }
}

async function pullProcess(
  netns: string,
  options: PullOptions & { at?: number; timeoutMs?: number },
): Promise<PullReport> {
  const args = ['pull', options.base, options.name, options.reference]
  if (options.concurrency !== undefined) args.push('--concurrency', `${options.concurrency}`)
  if (options.verify === false) args.push('--no-verify')
  if (options.auth !== undefined) args.push('--auth', options.auth)
  if (options.query !== undefined) args.push('--query', options.query)
  if (options.stallMs !== undefined) args.push('--stall', `${options.stallMs}`)
  if (options.at !== undefined) args.push('--at', `${options.at}`)
  const { stdout, stderr } = await run([process.execPath, join(HERE, 'client.ts'), ...args], {
    netns,
    mayFail: true,
    timeoutMs: options.timeoutMs ?? 180_000,
  })
  if (stdout === '') throw new Error(`the client said nothing: ${stderr.slice(-500)}`)
  return JSON.parse(stdout) as PullReport
}

/** The command line with which a person enters a namespace of the lab. */
export function enter(netns: string): string {
  return inside(netns, ['bash']).join(' ')
}
