import { lookup as systemLookup } from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'
import { ShoalError } from '../../base/index.ts'
import { malformed } from './fields.ts'

/** Link-local addresses: a cloud's metadata service is there, and no device. The unspecified one and multicast reach this machine or everybody. */
const never = new BlockList()
never.addSubnet('0.0.0.0', 8, 'ipv4')
never.addSubnet('169.254.0.0', 16, 'ipv4')
never.addSubnet('224.0.0.0', 3, 'ipv4')
never.addAddress('::', 'ipv6')
never.addSubnet('fe80::', 10, 'ipv6')
never.addSubnet('ff00::', 8, 'ipv6')
const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/** The IPv4 address of an IPv4-mapped one; `[::1]` without its brackets. */
export function bareAddress(address: string): string {
  const bare = address.replace(/^\[|\]$/g, '')
  return /^::ffff:\d+\.\d+\.\d+\.\d+$/i.test(bare) ? bare.slice(7) : bare
}

function within(list: BlockList, address: string): boolean {
  const bare = bareAddress(address)
  const family = isIP(bare)
  // The mapped form in hexadecimal (::ffff:7f00:1) is what URL makes of it: BlockList sees through it.
  return family === 0 ? false : list.check(bare, family === 6 ? 'ipv6' : 'ipv4')
}

export function isLoopbackAddress(address: string): boolean {
  return within(loopback, address)
}

/** Why nothing is sent to an address; undefined: it is. */
function refusal(address: string, allowLoopback: boolean): string | undefined {
  if (within(never, address)) return `${address} is no device's address`
  // The management API of a node trusts loopback: only a device that is on this very machine may name it.
  if (!allowLoopback && isLoopbackAddress(address)) return `${address} is this node itself`
  return undefined
}

/**
 * A URL that devices may have something sent to, or fetched from: http or https, without credentials, and not into the node itself. A name is looked at again
 * when it is resolved. @throws USAGE
 */
export function checkTarget(text: string, { allowLoopback }: { allowLoopback: boolean }): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.hostname === '') {
    throw new ShoalError('USAGE', 'must be an http or https URL')
  }
  if (url.username !== '' || url.password !== '') {
    throw new ShoalError('USAGE', 'must have no credentials in it')
  }
  const literal = bareAddress(url.hostname)
  const why = isIP(literal) === 0 ? undefined : refusal(literal, allowLoopback)
  if (why !== undefined) throw new ShoalError('USAGE', `must not go there: ${why}`)
  return url
}

/** Where a device wants to be called back. @throws USAGE, naming the member */
export function checkCallback(url: string | undefined, { local }: { local: boolean }): void {
  if (url === undefined) return
  try {
    checkTarget(url, { allowLoopback: local })
  } catch (error) {
    throw malformed([{ field: 'callbackReference', detail: (error as Error).message }])
  }
}

/** Resolves a name for a connection, and fails where it leads to an address that is refused. */
export function createLookup(allowLoopback: boolean): LookupFunction {
  return (hostname, options, callback) => {
    systemLookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, '', 0)
      const fit = addresses.filter(({ address }) => refusal(address, allowLoopback) === undefined)
      const first = fit[0]
      if (!first) {
        const why = addresses[0] ? refusal(addresses[0].address, allowLoopback) : 'it has no address'
        return callback(new ShoalError('DENIED', `${hostname}: ${why}`) as NodeJS.ErrnoException, '', 0)
      }
      if (options.all) return callback(null, fit)
      callback(null, first.address, first.family)
    })
  }
}
