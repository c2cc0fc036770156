import { parseBytes, ShoalError } from '../base/index.ts'
import { parseHostPort } from './address.ts'
import { parseDuration, parsePercent, parseRate } from './units.ts'

/** What the texts of settings may be; each throws ShoalError CONFIG for what is no fit value. */

export const address = (text: string): void => void parseHostPort(text)
export const size = (text: string): void => positive(parseBytes(text), text)
export const rate = (text: string): void => positive(parseRate(text), text)
export const percent = (text: string): void => void parsePercent(text)
export const duration = (text: string): void => void parseDuration(text)

function positive(value: number, text: string): void {
  if (value <= 0) throw new ShoalError('CONFIG', `must be more than nothing: ${text}`)
}

/** ISO 3166-1 alpha-2, with degrees north and east where they are known. */
export function place(text: string): void {
  const degrees = /^[A-Z]{2}(?:@(-?\d{1,2}(?:\.\d+)?),(-?\d{1,3}(?:\.\d+)?))?$/.exec(text)
  if (!degrees || Math.abs(Number(degrees[1] ?? 0)) > 90 || Math.abs(Number(degrees[2] ?? 0)) > 180) {
    throw new ShoalError('CONFIG', `not a place (such as DE or DE@52.52,13.40): ${text}`)
  }
}

export function httpUrl(text: string): void {
  if (!/^https?:\/\/./.test(text) || !URL.canParse(text)) {
    throw new ShoalError('CONFIG', `not an http or https URL: ${text}`)
  }
}

export function copies(text: string): void {
  if (!/^[1-9]\d?$/.test(text)) throw new ShoalError('CONFIG', `not a number from 1 to 99: ${text}`)
}

/** Names travel in tables, URLs and DNS-like places: letters, digits, dots, dashes and underscores. */
export function label(text: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(text)) {
    throw new ShoalError('CONFIG', `not a name (letters, digits, . _ -, at most 128): ${text}`)
  }
}

export function multiaddr(text: string): void {
  if (!/^\/(ip4|ip6|dns|dns4|dns6|dnsaddr)\/[^/\s]+(\/[^/\s]+)*$/.test(text)) {
    throw new ShoalError('CONFIG', `not a multiaddr (such as /ip4/0.0.0.0/tcp/5082): ${text}`)
  }
}

export function contact(text: string): void {
  if (/^dns:[^\s/]+$/.test(text)) return
  if (/^https?:/.test(text)) {
    if (URL.canParse(text) && new URL(text).host !== '') return
    throw new ShoalError('CONFIG', `not a URL: ${text}`)
  }
  if (!text.startsWith('/')) {
    throw new ShoalError('CONFIG', `not a multiaddr, http://HOST:APIPORT or dns:NAME: ${text}`)
  }
  multiaddr(text)
}

export function upstream(text: string): void {
  const [host, url] = splitPair(text)
  if (!/^[A-Za-z0-9.-]+(:\d+)?$/.test(host)) throw new ShoalError('CONFIG', `not a registry's host: ${host}`)
  if (host === 'local')
    throw new ShoalError('CONFIG', "local is the cluster's own registry: it has no upstream")
  if (!/^https?:\/\/./.test(url) || !URL.canParse(url)) {
    throw new ShoalError('CONFIG', `not an http or https URL: ${url}`)
  }
  if (new URL(url).username !== '') {
    throw new ShoalError('CONFIG', `credentials do not belong in a URL; use the config file: ${host}`)
  }
}

/** Both sides of `KEY=VALUE`. @throws ShoalError CONFIG */
export function splitPair(text: string): [key: string, value: string] {
  const at = text.indexOf('=')
  if (at <= 0 || at === text.length - 1) throw new ShoalError('CONFIG', `not of the form HOST=URL: ${text}`)
  return [text.slice(0, at), text.slice(at + 1)]
}

export function cgroup(text: string): void {
  if (!/^(?:\/[A-Za-z0-9_.:@-]+)+$/.test(text) || text.split('/').includes('..')) {
    throw new ShoalError('CONFIG', `expected an absolute path of a cgroup, got ${text}`)
  }
}
