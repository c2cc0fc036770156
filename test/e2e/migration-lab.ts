import { existsSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Migration } from '../../integration/index.ts'
import {
  type ContainerdClient,
  connectContainerd,
  createContainer,
  startContainer,
} from '../../integration/runtime/containerd/index.ts'
import {
  type Containerd,
  createLab,
  type Host,
  type Lab,
  type LabOptions,
  run,
  type ShoalNode,
  type ShoalOptions,
  until,
} from '../lab/index.ts'
import { type Observer, startObserver } from './observer.ts'

/** Written by the first migration, on the machine itself: runc reads no other. */
const CRIU_CONF = '/etc/criu/runc.conf'
export const IMAGE = 'docker.io/lab/work:1'
/** Where a workload with a network of its own can be reached on the LAN while it runs on the host of this index. */
export const workAddress = (host: number): string => `10.77.0.${201 + host}`

/**
 * Counts in /count, a hundred times a second, and holds so many MiB of random memory, whose checksum it writes to /sum when it finds /ask.
 * Files are written whole, by rename.
 */
export const COUNTER = (mib: number): string[] => [
  '/bin/perl',
  '-e',
  `open(R, "<", "/dev/urandom"); read(R, $m, ${mib} * 1048576); close(R);
   sub put { open(F, ">", "$_[0].new"); print F $_[1]; close(F); rename("$_[0].new", $_[0]) }
   put("/started", "by hand");
   for ($i = 1;; $i++) {
     put("/count", $i);
     if (-e "/ask") { unlink("/ask"); put("/sum", unpack("%32L*", $m)) }
     select(undef, undef, undef, 0.01);
   }`,
]

export interface MigrationNode {
  host: Host
  name: string
  containerd: Containerd
  client: ContainerdClient
  shoal: ShoalNode
  /** Ends the daemon without a word. */
  kill(): Promise<void>
  /** Starts it again, on the data it had. */
  restart(options?: Pick<ShoalOptions, 'env' | 'command'>): Promise<void>
  /** Ends containerd without a word; its shims and containers stay. */
  killContainerd(): Promise<void>
  restartContainerd(): Promise<void>
  migrations(): Promise<Migration[]>
  /** Resolves when the daemon has said that a migration is in this phase, from now on. `restored`: the copy runs, its health is checked. */
  phase(name: string): { reached: Promise<void> }
}

export interface MigrationLab {
  lab: Lab
  nodes: MigrationNode[]
  observer: Observer
  /** Path of a network namespace on the LAN that containers on any host can use; another one on each. */
  netns: string
  /** Starts a container on a node; `mount`: a directory of the host, at the same path. */
  start(
    node: MigrationNode,
    name: string,
    args: string[],
    options?: { netns?: string; image?: string; mount?: string },
  ): Promise<void>
  /** PID of the container's first process where one of this name runs, or is frozen. */
  pidOn(node: MigrationNode, name: string): Promise<number | undefined>
  /** What the container has in a file, read from the outside. */
  read(node: MigrationNode, name: string, path: string): Promise<string>
  logs(): string
  destroy(): Promise<void>
}

export async function createMigrationLab(options: Partial<LabOptions> = {}): Promise<MigrationLab> {
  const lab = await createLab({ hosts: 2, ...options })
  const clients: ContainerdClient[] = []
  const configured = existsSync(CRIU_CONF)
  try {
    await lab.push([
      {
        name: 'lab/work',
        tag: '1',
        layers: [1_000_000],
        runnable: true,
        programs: ['/usr/bin/perl', '/usr/bin/redis-server'],
      },
    ])
    const netns = await workNamespaces(lab)
    const nodes = await Promise.all(lab.hosts.map((host, i) => startNode(lab, host, i, clients)))
    await until(
      'the nodes see each other',
      async () => {
        const seen = await Promise.all(
          nodes.map(async ({ shoal }) => members(await shoal.api('/api/v1/status'))),
        )
        return seen.every((count) => count === nodes.length)
      },
      { timeoutMs: 60_000 },
    )
    const observer = await startObserver(lab)
    const signal = AbortSignal.timeout(30 * 60_000)

    async function pidOn({ containerd }: MigrationNode, name: string): Promise<number | undefined> {
      const { stdout } = await containerd.ctr(['tasks', 'ls'], { mayFail: true })
      const line = stdout.split('\n').find((each) => each.startsWith(`${name} `))
      const [, pid, status] = line?.split(/\s+/) ?? []
      return status === 'RUNNING' || status === 'PAUSED' ? Number(pid) : undefined
    }

    return {
      lab,
      nodes,
      observer,
      netns,
      pidOn,
      async start({ containerd, client }, name, args, { netns: own, image = IMAGE, mount } = {}) {
        if (!(await containerd.ctr(['images', 'ls', '-q'])).stdout.includes(IMAGE))
          await containerd.pull(IMAGE)
        await createContainer({
          client,
          image,
          id: name,
          args,
          cgroupParent: `/${lab.name}`,
          signal,
          ...(own === undefined ? {} : { netns: own }),
          ...(mount === undefined ? {} : { mounts: [{ source: mount, destination: mount, readonly: true }] }),
        })
        await startContainer({ client, id: name, log: join(lab.dir, `${name}.log`), signal })
      },
      async read(node, name, path) {
        const pid = await pidOn(node, name)
        if (pid === undefined) throw new Error(`${name} does not run on ${node.name}`)
        return readFileSync(`/proc/${pid}/root${path}`, 'utf8')
      },
      logs: () =>
        nodes
          .map(({ name, shoal }) => `--- ${name}\n${tail(readFileSync(shoal.service.log, 'utf8'), 60)}`)
          .join('\n'),
      async destroy() {
        for (const client of clients) client.close()
        await observer.stop()
        await lab.destroy()
        if (!configured) rmSync(CRIU_CONF, { force: true })
      },
    }
  } catch (error) {
    for (const client of clients) client.close()
    await lab.destroy()
    throw error
  }
}

async function startNode(
  lab: Lab,
  host: Host,
  index: number,
  clients: ContainerdClient[],
): Promise<MigrationNode> {
  const options = (containerd: Containerd) => ({
    flags: ['--containerd', containerd.address, '--site', 'lab'],
    env: { SHOAL_LOG_LEVEL: 'debug' },
  })
  const startContainerd = async (): Promise<Containerd> => {
    const started = await host.containerd()
    started.mirror('docker.io', ['http://127.0.0.1:5080'])
    await mountWork(lab, started, index)
    return started
  }
  const containerd = await startContainerd()
  const client = connectContainerd(containerd)
  clients.push(client)
  const node: MigrationNode = {
    host,
    name: host.name,
    containerd,
    client,
    shoal: await host.shoal(options(containerd)),
    async kill() {
      node.shoal.kill('SIGKILL')
      await node.shoal.service.ended
    },
    async restart({ env, ...more } = {}) {
      const { env: own, ...rest } = options(node.containerd)
      node.shoal = await host.shoal({ ...rest, ...more, env: { ...own, ...env } })
    },
    async killContainerd() {
      node.containerd.service.kill('SIGKILL')
      await node.containerd.service.ended
    },
    async restartContainerd() {
      node.containerd = await startContainerd()
    },
    phase(name) {
      const from = statSync(node.shoal.service.log).size
      const line = name === 'restored' ? '"msg":"restored"' : `"phase":"${name}"`
      const said = (): boolean => readFileSync(node.shoal.service.log, 'utf8').slice(from).includes(line)
      return { reached: until(`phase ${name}`, said, { timeoutMs: 90_000, everyMs: 5 }).then(() => {}) }
    },
    migrations: async () => (await node.shoal.api('/api/v1/migrations')) as Migration[],
  }
  return node
}

const members = (status: unknown): number => (status as { members: { alive: number } }).members.alive

/**
 * A place on the LAN for containers of each host, which has the same path on all of them, as it would on machines of their own. Its
 * addresses differ: clients follow.
 */
async function workNamespaces(lab: Lab): Promise<string> {
  const lan = `${lab.name}-lan`
  for (const [i] of lab.hosts.entries()) {
    const name = `${lab.name}-w${i + 1}`
    const port = `w${i + 1}`
    await run(['ip', 'netns', 'add', name])
    await run([
      'ip',
      'link',
      'add',
      port,
      'netns',
      lan,
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      name,
    ])
    await run(['ip', '-n', lan, 'link', 'set', port, 'master', 'br0', 'up'])
    await run(['ip', '-n', name, 'link', 'set', 'lo', 'up'])
    await run(['ip', '-n', name, 'addr', 'add', `${workAddress(i)}/24`, 'dev', 'eth0'])
    await run(['ip', '-n', name, 'link', 'set', 'eth0', 'up'])
  }
  const shared = `${lab.name}-work`
  await run(['ip', 'netns', 'add', shared])
  return `/run/netns/${shared}`
}

/** In the mounts that the host's containerd and its containers see. */
async function mountWork(lab: Lab, containerd: Containerd, host: number): Promise<void> {
  const [own, shared] = [`/run/netns/${lab.name}-w${host + 1}`, `/run/netns/${lab.name}-work`]
  await run(['nsenter', `--mount=/proc/${containerd.service.pid}/ns/mnt`, 'mount', '--bind', own, shared])
}

function tail(text: string, lines: number): string {
  return text.split('\n').slice(-lines).join('\n')
}
