import { existsSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createTurns } from '../../../base/index.ts'
import type { PodNetwork } from '../executor.ts'
import { command } from './command.ts'

const PLACES = ['/usr/lib/cni', '/opt/cni/bin', '/usr/libexec/cni']
const NEEDED = ['bridge', 'host-local', 'loopback', 'portmap']
const VERSION = '0.4.0'
const BRIDGE = 'cni-shoal0'
/** Of pods, on every node the same: it is seen on the node alone. */
const SUBNET = '10.213.0.0/16'
/** Of a file system that namespaces are mounted from: linux/magic.h's NSFS_MAGIC. */
const NSFS = 0x6e736673

type Port = { port: number; host: number }
type Conf = { type: string } & Record<string, unknown>

/** The directory with the CNI plugins that are needed; undefined where there is none. */
export function findPlugins(places: string[] = PLACES): string | undefined {
  return places.find((place) => NEEDED.every((plugin) => existsSync(join(place, plugin))))
}

/**
 * A network namespace for each pod, joined to a bridge of the node by the CNI reference plugins (CNI spec 0.4.0), with its ports published by
 * portmap's DNAT rules. The namespace is mounted on a file of ours, so that it outlives the container's processes: a restarted or a
 * restored container comes into the same one.
 */
export function createCniNetwork({ plugins, dir }: { plugins: string; dir: string }): PodNetwork {
  const spaces = join(dir, 'netns')
  const marks = join(dir, 'attached')
  // Plugins that change the same chains at the same time get in each other's way.
  const turns = createTurns(1)
  const firewall = existsSync(join(plugins, 'firewall'))

  const bridge = {
    type: 'bridge',
    bridge: BRIDGE,
    isGateway: true,
    ipMasq: true,
    hairpinMode: true,
    ipam: {
      type: 'host-local',
      dataDir: join(dir, 'ipam'),
      ranges: [[{ subnet: SUBNET }]],
      routes: [{ dst: '0.0.0.0/0' }],
    },
  }

  async function plugin(verb: 'ADD' | 'DEL', name: string, conf: Conf, signal: AbortSignal): Promise<string> {
    const netns = join(spaces, name)
    return command(join(plugins, conf.type), [], {
      input: JSON.stringify({ cniVersion: VERSION, name: 'shoal', ...conf }),
      env: {
        CNI_COMMAND: verb,
        CNI_CONTAINERID: name,
        CNI_NETNS: verb === 'DEL' && !(await isNamespace(netns)) ? '' : netns,
        CNI_IFNAME: conf.type === 'loopback' ? 'lo' : 'eth0',
        CNI_PATH: plugins,
      },
      signal,
    })
  }

  function portmap(ports: Port[]): Conf {
    const portMappings = ports.map(({ port, host }) => ({
      hostPort: host,
      containerPort: port,
      protocol: 'tcp',
    }))
    return { type: 'portmap', capabilities: { portMappings: true }, runtimeConfig: { portMappings } }
  }

  async function isWhole(name: string, ports: Port[]): Promise<boolean> {
    if (!(await isNamespace(join(spaces, name)))) return false
    try {
      return (await readFile(join(marks, name), 'utf8')) === JSON.stringify(ports)
    } catch {
      return false
    }
  }

  async function make(name: string, ports: Port[], signal: AbortSignal): Promise<void> {
    const netns = join(spaces, name)
    await Promise.all([spaces, marks].map((each) => mkdir(each, { recursive: true })))
    await (await open(netns, 'a')).close()
    await command('unshare', [`--net=${netns}`, 'true'], { signal })
    await plugin('ADD', name, { type: 'loopback' }, signal)
    let prevResult = JSON.parse(await plugin('ADD', name, bridge, signal))
    // Docker has forwarding refused but for its own: who is to be reached must be let through.
    if (firewall) prevResult = JSON.parse(await plugin('ADD', name, { type: 'firewall', prevResult }, signal))
    if (ports.length > 0) await plugin('ADD', name, { ...portmap(ports), prevResult }, signal)
    await writeFile(join(marks, `.${name}`), JSON.stringify(ports))
    await rename(join(marks, `.${name}`), join(marks, name))
  }

  /** Deletion is idempotent in each plugin, by the name alone; but portmap looks for nothing where no port is named. */
  async function unmake(name: string, signal: AbortSignal): Promise<void> {
    const netns = join(spaces, name)
    if (!existsSync(netns) && !existsSync(join(marks, name))) return
    await plugin('DEL', name, portmap([{ port: 1, host: 1 }]), signal)
    if (firewall) await plugin('DEL', name, { type: 'firewall' }, signal).catch(() => {})
    await plugin('DEL', name, bridge, signal)
    while (await isNamespace(netns)) await command('umount', ['-l', netns], { signal })
    await rm(join(marks, name), { force: true })
    await rm(netns, { force: true })
  }

  return {
    shared: false,
    attach: (name, ports, signal) =>
      turns.run('', async () => {
        if (!(await isWhole(name, ports))) {
          await unmake(name, signal)
          try {
            await make(name, ports, signal)
          } catch (error) {
            await unmake(name, AbortSignal.timeout(20e3)).catch(() => {})
            throw error
          }
        }
        return join(spaces, name)
      }),
    detach: (name, signal) => turns.run('', () => unmake(name, signal)),
    async list() {
      const names = await Promise.all([spaces, marks].map((each) => readdir(each).catch(() => [])))
      return [...new Set(names.flat().filter((name) => !name.startsWith('.')))]
    },
  }
}

async function isNamespace(path: string): Promise<boolean> {
  try {
    return (await statfs(path)).type === NSFS
  } catch {
    return false
  }
}
