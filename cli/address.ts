import { isIP } from 'node:net'
import { ShoalError } from '../base/index.ts'

/** Where to listen or connect. `host` has no brackets. */
export interface HostPort {
  host: string
  port: number
}

/**
 * `127.0.0.1:5080`, `[::1]:5080`, `name:5080`, `:5080` (every interface). Port 0 lets the system choose.
 * @throws ShoalError CONFIG
 */
export function parseHostPort(text: string): HostPort {
  const match = /^(?:\[([^\]]+)\]|([^:[\]/\s]*)):(\d{1,5})$/.exec(text.trim())
  const port = Number(match?.[3])
  if (!match || port > 65535 || (match[1] !== undefined && isIP(match[1]) !== 6)) {
    throw new ShoalError('CONFIG', `not an ADDR:PORT (such as 127.0.0.1:5080): ${text}`)
  }
  return { host: match[1] ?? (match[2] === '' ? '0.0.0.0' : (match[2] ?? '')), port }
}

/** `host:port`, with brackets around an IPv6 address. */
export function formatHostPort({ host, port }: HostPort): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`
}

/** The address at which this machine reaches something that listens on `at`: the wildcard becomes loopback. */
export function reachable(at: HostPort): HostPort {
  if (at.host === '0.0.0.0') return { ...at, host: '127.0.0.1' }
  if (at.host === '::') return { ...at, host: '::1' }
  return at
}

/** True for 127.0.0.0/8, ::1 and their IPv4-mapped form. */
export function isLoopback(address: string): boolean {
  const bare = address.startsWith('::ffff:') ? address.slice(7) : address
  return bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'))
}

/** True for `localhost`, names below it, and loopback addresses (brackets allowed). */
export function isLoopbackName(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase()
  return bare === 'localhost' || bare.endsWith('.localhost') || isLoopback(bare)
}
