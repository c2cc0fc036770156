import { parseBytes, ShoalError } from '../base/index.ts'
import { formatHostPort, parseHostPort } from './address.ts'
import { parseDuration, parseRate } from './units.ts'

/** How a setting's text becomes its value; `list` settings are repeatable flags and YAML sequences. */
export interface Setting {
  /** Kebab-case: the flag, the key in the file and, in capitals after SHOAL_, the environment variable. */
  name: string
  /** What the help shows after the flag; absent for a switch. */
  argument?: string
  help: string
  /** What the help says of the default, where there is one. */
  shownDefault?: string
  list?: boolean
  /** A map `KEY=VALUE`: repeatable as a flag, a YAML mapping in the file. */
  map?: boolean
  /** The value is a path: relative ones in the file are relative to the file. */
  path?: boolean
  choices?: readonly string[]
  /** Throws ShoalError CONFIG when the text is no fit value. */
  check?: (text: string) => void
}

const address = (text: string): void => void parseHostPort(text)
const size = (text: string): void => positive(parseBytes(text), text)
const rate = (text: string): void => positive(parseRate(text), text)
const duration = (text: string): void => void parseDuration(text)

function positive(value: number, text: string): void {
  if (value <= 0) throw new ShoalError('CONFIG', `must be more than nothing: ${text}`)
}

/** Names travel in tables, URLs and DNS-like places: letters, digits, dots, dashes and underscores. */
function label(text: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(text)) {
    throw new ShoalError('CONFIG', `not a name (letters, digits, . _ -, at most 128): ${text}`)
  }
}

function multiaddr(text: string): void {
  if (!/^\/(ip4|ip6|dns|dns4|dns6|dnsaddr)\/[^/\s]+(\/[^/\s]+)*$/.test(text)) {
    throw new ShoalError('CONFIG', `not a multiaddr (such as /ip4/0.0.0.0/tcp/5082): ${text}`)
  }
}

function contact(text: string): void {
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

function upstream(text: string): void {
  const [host, url] = splitPair(text)
  if (!/^[A-Za-z0-9.-]+(:\d+)?$/.test(host)) throw new ShoalError('CONFIG', `not a registry's host: ${host}`)
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

export const DEFAULT_REGISTRY = formatHostPort({ host: '127.0.0.1', port: 5080 })
export const DEFAULT_API = formatHostPort({ host: '127.0.0.1', port: 5081 })

/** Every setting of `serve`, once: flags, environment, file and completion are all made of this table. */
export const SETTINGS: readonly Setting[] = [
  {
    name: 'data-dir',
    argument: 'DIR',
    path: true,
    help: 'where state is kept',
    shownDefault: '/var/lib/shoal, or $XDG_STATE_HOME/shoal unprivileged',
  },
  {
    name: 'registry',
    argument: 'ADDR:PORT',
    help: 'what runtimes pull from',
    shownDefault: DEFAULT_REGISTRY,
    check: address,
  },
  {
    name: 'api',
    argument: 'ADDR:PORT',
    help: 'management API, /metrics, /healthz, /readyz',
    shownDefault: DEFAULT_API,
    check: address,
  },
  {
    name: 'listen',
    argument: 'MULTIADDR',
    list: true,
    help: 'libp2p address; repeatable',
    shownDefault: '/ip4/0.0.0.0/tcp/5082',
    check: multiaddr,
  },
  {
    name: 'bootstrap',
    argument: 'CONTACT',
    list: true,
    help: 'a multiaddr with or without /p2p/ID, http://HOST:APIPORT or dns:NAME; repeatable',
    check: contact,
  },
  { name: 'name', argument: 'NAME', help: 'for people', shownDefault: "the host's name", check: label },
  {
    name: 'site',
    argument: 'NAME',
    help: 'nodes on one LAN behind one uplink',
    shownDefault: '"default"',
    check: label,
  },
  {
    name: 'cluster-key',
    argument: 'FILE',
    path: true,
    help: 'shared secret that admits a node to the cluster',
  },
  {
    name: 'upstream',
    argument: 'HOST=URL',
    map: true,
    help: "where a host's registry is, e.g. docker.io=https://mirror.example; repeatable",
    check: upstream,
  },
  {
    name: 'quota',
    argument: 'SIZE',
    help: 'of the block store, e.g. 20GiB',
    shownDefault: "the disk's size",
    check: size,
  },
  {
    name: 'offer',
    argument: 'SIZE',
    help: "space for this node's share of the site's stored images",
    shownDefault: "the quota, or the disk's size",
    check: size,
  },
  {
    name: 'leave-delay',
    argument: 'TIME',
    help: 'how long a node may be away before its share of stored images is copied again',
    shownDefault: '10m',
    check: duration,
  },
  {
    name: 'repair-rate',
    argument: 'RATE',
    help: 'of taking copies that are made again or move',
    shownDefault: '25MB/s',
    check: rate,
  },
  {
    name: 'upload-rate',
    argument: 'RATE',
    help: 'to peers, e.g. 100Mbit/s',
    shownDefault: 'no limit',
    check: rate,
  },
  {
    name: 'download-rate',
    argument: 'RATE',
    help: 'from peers and upstream',
    shownDefault: 'no limit',
    check: rate,
  },
  {
    name: 'tag-ttl',
    argument: 'TIME',
    help: 'how long a tag is believed',
    shownDefault: '30s',
    check: duration,
  },
  {
    name: 'entitlement-ttl',
    argument: 'TIME',
    help: 'how long it is remembered that a client may read a private repository',
    shownDefault: '5m',
    check: duration,
  },
  {
    name: 'offline',
    argument: 'POLICY',
    help: 'who gets private content while its upstream cannot be asked',
    shownDefault: 'known',
    choices: ['deny', 'known', 'open'],
  },
  {
    name: 'ca',
    argument: 'FILE',
    list: true,
    path: true,
    help: 'PEM of a further certificate authority for upstreams; repeatable',
  },
  {
    name: 'docker-config',
    argument: 'FILE',
    path: true,
    help: 'config.json with credentials for upstreams',
    shownDefault: '~/.docker/config.json where it exists',
  },
  { name: 'mdns', help: 'find neighbours by multicast DNS' },
  {
    name: 'encrypter',
    argument: 'NAME',
    help: 'between nodes',
    shownDefault: 'the faster one',
    choices: ['noise', 'tls'],
  },
  {
    name: 'containerd',
    argument: 'ADDRESS',
    path: true,
    help: 'its socket',
    shownDefault: '/run/containerd/containerd.sock where it exists',
  },
  {
    name: 'docker',
    argument: 'SOCKET',
    path: true,
    help: 'its socket',
    shownDefault: '/run/docker.sock where it exists',
  },
  {
    name: 'mec',
    argument: 'ADDR:PORT',
    help: 'the MEC API',
    shownDefault: 'off',
    check: address,
  },
  {
    name: 'api-token',
    argument: 'FILE',
    path: true,
    help: 'token that lets other machines change state',
    shownDefault: 'api.token in the data directory',
  },
  {
    name: 'log-level',
    argument: 'LEVEL',
    help: 'what is logged to stderr',
    shownDefault: 'info',
    choices: ['debug', 'info', 'warn', 'error', 'silent'],
  },
]

export const SETTING_NAMES: ReadonlySet<string> = new Set(SETTINGS.map((setting) => setting.name))

/** `data-dir` as `SHOAL_DATA_DIR`. */
export function environmentName(setting: string): string {
  return `SHOAL_${setting.toUpperCase().replaceAll('-', '_')}`
}
