import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { findPlugins } from '../../integration/offload/network/cni.ts'
import { type Host, run, type ShoalNode } from '../lab/index.ts'
import { lacking } from './support.ts'

/** A host that runs pods by some container runtime, as tests look at it from outside. */
export interface PodHost {
  /** What its daemon is told of the runtime. */
  flags: string[]
  /** Containers that there are, running or not. */
  names(): Promise<string[]>
  /** Of its first process; 0: it does not run. */
  pid(name: string): Promise<number>
  /** What it said. */
  output(name: string, node: ShoalNode): Promise<string>
  /** Of applications nothing is left: containers, layers of theirs, networks, addresses, ports and logs. */
  assertNothingLeft(node: ShoalNode): Promise<void>
}

export interface PodRuntimeKit {
  name: string
  /** Why it cannot be had here; false: it can. */
  skip: string | false
  start(host: Host): Promise<PodHost>
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '')

async function assertNoRules(host: Host): Promise<void> {
  const { stdout } = await host.exec(['iptables', '-t', 'nat', '-S'])
  assert.doesNotMatch(stdout, /shoal-|--to-destination/)
}

async function assertNoLinks(host: Host): Promise<void> {
  const { stdout } = await host.exec(['ip', '-o', 'link', 'show', 'type', 'veth'])
  assert.doesNotMatch(stdout, /master (?:cni-shoal0|docker0)/)
}

function assertNoFiles({ dataDir }: ShoalNode): void {
  const dir = join(dataDir, 'offload')
  const files = (sub: string) => (existsSync(join(dir, sub)) ? readdirSync(join(dir, sub)) : [])
  assert.deepEqual(files('netns'), [])
  assert.deepEqual(files('attached'), [])
  const leases = files('ipam/shoal').filter((name) => /^\d/.test(name))
  assert.deepEqual(leases, [], 'leases of addresses')
  assert.deepEqual(files('logs'), [])
}

const noPlugins = (): string | false => (findPlugins() === undefined ? 'needs the CNI plugins' : false)

export const CONTAINERD: PodRuntimeKit = {
  name: 'containerd',
  skip: lacking('containerd', 'ctr', 'runc', 'criu', 'iptables') || noPlugins(),
  async start(host) {
    const { ctr, address } = await host.containerd()
    return {
      flags: ['--containerd', address],
      names: async () => lines((await ctr(['containers', 'ls', '-q'])).stdout),
      async pid(name) {
        const { stdout } = await ctr(['tasks', 'ls'])
        return Number(new RegExp(`^${name} +(\\d+) +RUNNING`, 'm').exec(stdout)?.[1] ?? 0)
      },
      async output(name, { dataDir }) {
        return (await run(['cat', join(dataDir, 'offload/logs', `${name}.log`)], { mayFail: true })).stdout
      },
      async assertNothingLeft(node) {
        assert.equal((await ctr(['containers', 'ls', '-q'])).stdout, '', `containers on ${host.name}`)
        assert.equal((await ctr(['tasks', 'ls', '-q'])).stdout, '')
        assert.doesNotMatch((await ctr(['snapshots', 'ls'])).stdout, /^shoal-/m)
        await assertNoRules(host)
        await assertNoLinks(host)
        assertNoFiles(node)
      },
    }
  },
}

export const DOCKER: PodRuntimeKit = {
  name: 'docker',
  skip: lacking('dockerd', 'docker', 'containerd', 'runc', 'criu', 'iptables'),
  async start(host) {
    const { docker, socket } = await host.dockerd({ bridge: true, flags: ['--experimental'] })
    return {
      // Without its name a containerd of the machine's own, where there is one, would run them.
      flags: ['--docker', socket, '--pod-runtime', 'docker'],
      names: async () => lines((await docker(['ps', '--all', '--format', '{{.Names}}'])).stdout),
      async pid(name) {
        const { stdout } = await docker(['inspect', name, '--format', '{{.State.Pid}}'], { mayFail: true })
        return Number(stdout.trim())
      },
      async output(name) {
        const { stdout, stderr } = await docker(['logs', name], { mayFail: true })
        return stdout + stderr
      },
      async assertNothingLeft(node) {
        assert.equal((await docker(['ps', '--all', '--quiet'])).stdout, '', `containers on ${host.name}`)
        assert.equal((await docker(['volume', 'ls', '--quiet'])).stdout, '')
        await assertNoRules(host)
        await assertNoLinks(host)
        assertNoFiles(node)
      },
    }
  },
}
