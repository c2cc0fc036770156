import { ShoalError } from '../../base/index.ts'
import { run } from './sh.ts'

/** Rates as tc writes them: `100mbit`, `1gbit`. */
export type Uplink = { rate: string; shared: true } | { rate: string; each: true } | 'none'

export interface NetworkOptions {
  /** The lab's name: prefix of every namespace. */
  name: string
  hosts: number
  uplink: Uplink
  /** Rate of each host's link to the LAN, either way; undefined: not shaped. */
  lan: string | undefined
}

export interface Network {
  cloud: string
  cloudAddress: string
  hosts: { netns: string; address: string }[]
  /** Cuts (pulls the plug of) one host's LAN link, or the whole site's uplinks, or puts them back. */
  lan(host: number, up: boolean): Promise<void>
  uplink(up: boolean): Promise<void>
  /** What crossed the uplinks since the lab's start. */
  counters(): Promise<UplinkCounters>
}

/** Bytes of TCP payload as the network saw them, retransmissions included, headers not. */
export interface UplinkCounters {
  down: number
  up: number
  /** By host where each has an uplink of its own: the bytes down. */
  each: number[]
}

/** Ethernet, IPv4 and TCP headers with timestamps: a veth counts them once a packet, large (GSO) packets included. */
const HEADERS = 66

/** Bits a second of a rate as tc has it. @throws USAGE */
export function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(k|m|g)bit$/.exec(text)
  if (!match) throw new ShoalError('USAGE', `not a rate (100mbit, 1gbit): ${text}`)
  return Number(match[1]) * { k: 1e3, m: 1e6, g: 1e9 }[match[2] as 'k' | 'm' | 'g']
}

/**
 * Lays the cables: LAN 10.77.0.0/24 with the router at .254, cloud 10.77.1.254. In the cloud the addresses are on a bridge, so
 * that a link can be cut at its port without an address or a route being lost.
 */
export async function createNetwork(options: NetworkOptions): Promise<Network> {
  const { name, uplink } = options
  const lan = `${name}-lan`
  const cloud = `${name}-cloud`
  const each = uplink !== 'none' && 'each' in uplink
  const hosts = Array.from({ length: options.hosts }, (_, i) => ({
    netns: `${name}-h${i + 1}`,
    address: `10.77.0.${i + 1}`,
  }))
  const spaces = [lan, cloud, ...hosts.map((h) => h.netns)]
  await ip(spaces.map((ns) => `netns add ${ns}`))
  for (const ns of spaces) await settle(ns, ns === lan)

  await ip(['link add br0 type bridge', 'addr add 10.77.0.254/24 dev br0', 'link set br0 up'], lan)
  await ip(['link add br0 type bridge', 'addr add 10.77.1.254/24 dev br0', 'link set br0 up'], cloud)
  await ip(
    hosts.flatMap((h, i) => {
      const lines = [`link add h${i + 1} netns ${lan} type veth peer name eth0 netns ${h.netns}`]
      if (each) lines.push(`link add w${i + 1} netns ${cloud} type veth peer name wan0 netns ${h.netns}`)
      return lines
    }),
  )
  await ip(
    hosts.map((_, i) => `link set h${i + 1} master br0 up`),
    lan,
  )
  for (const [i, h] of hosts.entries()) {
    const wan = [`addr add 10.77.1.${i + 1}/24 dev wan0`, 'link set wan0 up']
    // No default route: what looks for a name server fails at once instead of waiting for an answer.
    const routed = ['route add 10.77.1.0/24 via 10.77.0.254']
    await ip(
      [
        `addr add ${h.address}/24 dev eth0`,
        'link set eth0 up',
        'route add 224.0.0.0/4 dev eth0',
        ...(each ? wan : routed),
      ],
      h.netns,
    )
    await shape(h.netns, 'eth0', options.lan)
    await shape(lan, `h${i + 1}`, options.lan)
  }
  const ports = each ? hosts.map((_, i) => `w${i + 1}`) : ['site']
  if (!each) {
    await ip([`link add site netns ${cloud} type veth peer name wan netns ${lan}`])
    await ip(['addr add 10.77.1.253/24 dev wan', 'link set wan up'], lan)
    await ip(['route add 10.77.0.0/24 via 10.77.1.253'], cloud)
  }
  // Isolated: hosts with an uplink each must not see each other through the cloud's bridge.
  await ip(
    ports.flatMap((port) => [
      `link set ${port} master br0 up`,
      `link set ${port} type bridge_slave isolated on`,
    ]),
    cloud,
  )
  const rate = uplink === 'none' ? undefined : uplink.rate
  for (const [i, port] of ports.entries()) {
    await shape(cloud, port, rate)
    await shape(each ? hosts[i]!.netns : lan, each ? 'wan0' : 'wan', rate)
  }

  for (const ns of spaces) await useCubic(ns)

  const set = (ns: string, dev: string, up: boolean) => ip([`link set ${dev} ${up ? 'up' : 'down'}`], ns)
  return {
    cloud,
    cloudAddress: '10.77.1.254',
    hosts,
    lan: (host, up) => set(lan, `h${host + 1}`, up),
    async uplink(up) {
      for (const port of ports) await set(cloud, port, up)
    },
    async counters() {
      const links = await statistics(cloud)
      const of = (port: string) => links.get(port) ?? { down: 0, up: 0 }
      return {
        down: ports.reduce((sum, port) => sum + of(port).down, 0),
        up: ports.reduce((sum, port) => sum + of(port).up, 0),
        each: ports.map((port) => of(port).down),
      }
    },
  }
}

async function ip(lines: string[], netns?: string): Promise<void> {
  const where = netns === undefined ? [] : ['-n', netns]
  await run(['ip', ...where, '-batch', '-'], { input: `${lines.join('\n')}\n` })
}

/** Same behaviour whatever the machine's own settings are: no IPv6 noise, no start-up caches of old connections. */
async function settle(netns: string, router: boolean): Promise<void> {
  const settings = [
    'net.ipv6.conf.all.disable_ipv6=1',
    'net.ipv4.tcp_no_metrics_save=1',
    `net.ipv4.ip_forward=${router ? 1 : 0}`,
  ]
  await run(['sysctl', '-qw', ...settings], { netns })
  await ip(['link set lo up'], netns)
}

/**
 * Every route's connections use cubic, Debian's default. By route, since a namespace may not choose an algorithm that the
 * machine's own does not offer to everybody.
 */
async function useCubic(netns: string): Promise<void> {
  const { stdout } = await run(['ip', '-n', netns, 'route', 'show'])
  const routes = stdout.split('\n').map((line) => line.replace(/\b(linkdown|dead)\b/g, '').trim())
  const lines = routes.filter((line) => line !== '').map((line) => `route replace ${line} congctl cubic`)
  await ip(lines, netns)
}

/** tbf: a bucket of 1 ms (64 KiB at least, so that large packets pass whole) and a queue of 25 ms. */
async function shape(netns: string, dev: string, rate: string | undefined): Promise<void> {
  if (rate === undefined) return
  const bytes = parseRate(rate) / 8
  const burst = Math.round(Math.max(72_000, bytes * 0.001))
  const limit = Math.round(Math.max(200_000, bytes * 0.025))
  const tbf = ['tbf', 'rate', rate, 'burst', `${burst}`, 'limit', `${limit}`]
  await run(['tc', '-n', netns, 'qdisc', 'replace', 'dev', dev, 'root', ...tbf])
}

async function statistics(netns: string): Promise<Map<string, { down: number; up: number }>> {
  const { stdout } = await run(['ip', '-n', netns, '-s', '-j', 'link', 'show'])
  type Count = { bytes: number; packets: number }
  const links = JSON.parse(stdout) as { ifname: string; stats64?: { rx: Count; tx: Count } }[]
  const payload = (c: Count) => Math.max(0, c.bytes - c.packets * HEADERS)
  return new Map(
    links.flatMap(({ ifname, stats64: s }) =>
      s === undefined ? [] : [[ifname, { down: payload(s.tx), up: payload(s.rx) }] as const],
    ),
  )
}
