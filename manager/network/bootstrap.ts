import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { multiaddr } from '@multiformats/multiaddr'
import { type Log, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../types.ts'
import type { Links } from './links.ts'
import { fetchStatus } from './status-client.ts'

/** Libp2p's port where a DNS name comes without one. */
export const DEFAULT_PORT = 5082
const MAX_HOSTS = 16

/** A place where members may be found. */
export interface BootstrapSource {
  /** As the user wrote it. */
  name: string
  /** Connects to those it leads to, this node itself left out. @throws PEER_GONE when nobody is there now, or what `signal` aborts with */
  contact(links: Links, signal: AbortSignal): Promise<PeerId[]>
}

interface Target {
  peer?: PeerId
  addrs: string[]
}

/**
 * A bootstrap address: a TCP multiaddr with or without `/p2p/ID` (IP addresses or a `/dns…` name), `http://HOST:APIPORT`, where the
 * node there is asked for its addresses, or `dns:NAME[:PORT]`, all of whose A and AAAA records are tried.
 *
 * @throws CONFIG when it is none of these
 */
export function parseBootstrap(text: string, log: Log): BootstrapSource {
  const resolve = resolver(text)
  return {
    name: text,
    async contact(links, signal) {
      const targets = await resolve(signal)
      const results = await Promise.allSettled(targets.map((target) => links.connect(target, signal)))
      const found = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
      const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []))
      const lost = failures.filter((error) => !(error instanceof ShoalError && error.code === 'LOOP'))
      if (found.length === 0 && lost.length > 0) {
        throw new ShoalError('PEER_GONE', `nobody answers at ${text}`, { cause: lost[0] })
      }
      if (found.length === 0)
        log.debug({ bootstrap: text }, 'the bootstrap address leads to this node itself')
      return [...new Set(found)]
    },
  }
}

function resolver(text: string): (signal: AbortSignal) => Promise<Target[]> {
  if (/^https?:\/\//.test(text)) {
    const url = parseUrl(text)
    return async (signal) => [await fetchStatus(url, signal)]
  }
  if (text.startsWith('dns:')) {
    const { host, port } = parseHostPort(text.slice('dns:'.length), text)
    return async (signal) =>
      (await resolveHost(host, signal)).map((address) => ({ addrs: [tcpAddress(address, port)] }))
  }
  const { target, host, port } = parseTarget(text)
  if (host === undefined) return async () => [target]
  return async (signal) => {
    const addrs = (await resolveHost(host, signal)).map((address) => tcpAddress(address, port))
    return [{ ...target, addrs }]
  }
}

function parseTarget(text: string): { target: Target; host?: string; port: number } {
  try {
    const components = multiaddr(text).getComponents()
    const [host, tcp, peer, ...rest] = components
    const port = Number(tcp?.value)
    const plain = tcp?.name === 'tcp' && rest.length === 0 && (peer === undefined || peer.name === 'p2p')
    if (plain && host?.value !== undefined && /^(ip4|ip6|dns|dns4|dns6)$/.test(host.name)) {
      const target = {
        addrs: [`/${host.name}/${host.value}/tcp/${port}`],
        ...(peer?.value === undefined ? {} : { peer: peer.value }),
      }
      return host.name.startsWith('dns') ? { target, host: host.value, port } : { target, port }
    }
  } catch {
    // Told below, in words that fit all forms.
  }
  throw malformed(text)
}

function parseUrl(text: string): URL {
  if (!URL.canParse(text)) throw malformed(text)
  return new URL(text)
}

function parseHostPort(text: string, whole: string): { host: string; port: number } {
  const [, host, port] = /^([A-Za-z0-9._-]+)(?::(\d+))?$/.exec(text) ?? []
  const number = port === undefined ? DEFAULT_PORT : Number(port)
  if (host === undefined || number < 1 || number > 65_535) throw malformed(whole)
  return { host, port: number }
}

async function resolveHost(host: string, signal: AbortSignal): Promise<string[]> {
  // The resolver takes no signal, and may take long where the name server is behind a cut uplink.
  const cut = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
  const found = await Promise.race([lookup(host, { all: true }), cut])
  return found.slice(0, MAX_HOSTS).map(({ address }) => address)
}

function tcpAddress(address: string, port: number): string {
  return `/ip${isIP(address) === 6 ? 6 : 4}/${address}/tcp/${port}`
}

function malformed(text: string): ShoalError {
  return new ShoalError(
    'CONFIG',
    `bad bootstrap address ${JSON.stringify(text)}: expected /ip4/ADDRESS/tcp/PORT[/p2p/ID], http://HOST:PORT or dns:NAME[:PORT]`,
  )
}
