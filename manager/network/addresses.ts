import { networkInterfaces } from 'node:os'
import { multiaddr } from '@multiformats/multiaddr'

/** More would only slow down those who dial them. */
const MAX_ADDRESSES = 8
/** Bridges of container runtimes and hypervisors: the same addresses on every host, so they lead elsewhere. */
const BRIDGES = /^(docker|br-|cni|podman|virbr|lxc|lxd|flannel|cali|kube|nerdctl)/

/** Rank of what leads nowhere from other hosts. */
const LAST = 10

interface Interface {
  name: string
  address: string
  family: 'ip4' | 'ip6'
  loopback: boolean
}

/**
 * Where others can dial this node, best first: listening addresses with 0.0.0.0 and :: replaced by those of the
 * interfaces. Loopback is announced only by a listener that is bound to it, or when there is nothing else; link-local
 * never, as it needs a zone.
 */
export function dialableAddresses(
  listening: readonly string[],
  interfaces: readonly Interface[] = systemInterfaces(),
): string[] {
  const found: { address: string; rank: number }[] = []
  for (const text of new Set(listening)) {
    const [host, transport] = multiaddr(text).getComponents()
    if (transport?.name !== 'tcp' || (host?.name !== 'ip4' && host?.name !== 'ip6')) continue
    const wildcard = host.value === '0.0.0.0' || host.value === '::'
    if (!wildcard) {
      found.push({ address: `/${host.name}/${host.value}/tcp/${transport.value}`, rank: 0 })
      continue
    }
    for (const { name, address, family, loopback } of interfaces) {
      if (family !== host.name || isLinkLocal(address)) continue
      const rank = (loopback ? LAST : BRIDGES.test(name) ? 2 : 0) + (family === 'ip6' ? 1 : 0)
      found.push({ address: `/${family}/${address}/tcp/${transport.value}`, rank })
    }
  }
  found.sort((a, b) => a.rank - b.rank)
  const useful = found.filter(({ rank }) => rank < LAST)
  return [...new Set((useful.length > 0 ? useful : found).map(({ address }) => address))].slice(
    0,
    MAX_ADDRESSES,
  )
}

export function systemInterfaces(): Interface[] {
  return Object.entries(networkInterfaces()).flatMap(([name, entries = []]) =>
    entries.map(({ address, family, internal }) => ({
      name,
      address,
      family: family === 'IPv6' ? ('ip6' as const) : ('ip4' as const),
      loopback: internal,
    })),
  )
}

/**
 * The listening addresses as asked for, wildcards included, with the ports that the system chose for port 0.
 * `bound` is libp2p's list, in which wildcards are expanded.
 */
export function listeningAddresses(asked: readonly string[], bound: readonly string[]): string[] {
  const real = bound.map((text) => multiaddr(text).getComponents())
  return asked.flatMap((text) => {
    const [host, tcp] = multiaddr(text).getComponents()
    if (tcp?.value !== '0') return [text]
    const wildcard = host?.value === '0.0.0.0' || host?.value === '::'
    const same = real.filter(
      ([other]) => other?.name === host?.name && (wildcard || other?.value === host?.value),
    )
    return [
      ...new Set(same.map(([, { value } = { value: '0' }]) => `/${host?.name}/${host?.value}/tcp/${value}`)),
    ]
  })
}

function isLinkLocal(address: string): boolean {
  return address.startsWith('169.254.') || /^fe[89ab]/i.test(address)
}
