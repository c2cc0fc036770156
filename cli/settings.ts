import { parseBytes } from '../base/index.ts'
import { formatHostPort } from './address.ts'
import {
  address,
  cgroup,
  contact,
  copies,
  duration,
  httpUrl,
  label,
  multiaddr,
  percent,
  place,
  rate,
  size,
  upstream,
} from './setting-checks.ts'

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
  /** A switch that is on unless it is turned off: the help shows `--no-NAME`. */
  on?: boolean
  /** The value is a path: relative ones in the file are relative to the file. */
  path?: boolean
  choices?: readonly string[]
  /** Throws ShoalError CONFIG when the text is no fit value. */
  check?: (text: string) => void
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
    name: 'quota-low',
    argument: 'PERCENT',
    help: 'of the quota: eviction goes on until this is left',
    shownDefault: '90',
    check: percent,
  },
  {
    name: 'min-free',
    argument: 'SIZE',
    help: 'that the disk shall have free, whoever fills it: below, cache is evicted',
    shownDefault: '0: only a full disk evicts',
    check: (text) => void parseBytes(text),
  },
  {
    name: 'scrub-every',
    argument: 'TIME',
    help: 'how often all blocks are read and verified at a low rate; 0: only by shoal scrub',
    shownDefault: '7d',
    check: duration,
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
    name: 'local-copies',
    argument: 'N',
    help: 'nodes that keep what is pushed to local/',
    shownDefault: '2, or all where there are fewer',
    check: copies,
  },
  {
    name: 'local-ack',
    argument: 'POLICY',
    help: 'a push to local/ is done when it has its copies (quorum), or when it is whole on this node (local-first)',
    shownDefault: 'quorum',
    choices: ['quorum', 'local-first'],
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
    name: 'containerd-root',
    argument: 'DIR',
    path: true,
    help: 'its directory, from whose content store Shoal serves what is there',
    shownDefault: '/var/lib/containerd where it exists',
  },
  { name: 'borrow', on: true, help: "do not serve from containerd's files: keep own copies of everything" },
  {
    name: 'docker',
    argument: 'SOCKET',
    path: true,
    help: 'its socket',
    shownDefault: '/run/docker.sock where it exists',
  },
  {
    name: 'runc',
    argument: 'DIR',
    path: true,
    help: "runc's state directory (its --root), for containers of plain bundles",
    shownDefault: '/run/runc where runc is installed',
  },
  {
    name: 'mec',
    argument: 'ADDR:PORT',
    help: 'the MEC API, for devices that hand applications to the edge',
    shownDefault: 'off',
    check: address,
  },
  { name: 'mec-cert', argument: 'FILE', path: true, help: 'PEM certificate: the MEC API talks TLS' },
  { name: 'mec-key', argument: 'FILE', path: true, help: 'its key, PEM' },
  {
    name: 'mec-place',
    argument: 'PLACE',
    help: 'where this node is: a country, or COUNTRY@LATITUDE,LONGITUDE, e.g. DE@52.52,13.40',
    shownDefault: 'as the rest of the site, or unknown',
    check: place,
  },
  {
    name: 'mec-packages',
    argument: 'URL',
    list: true,
    help: 'beginning of URLs that application packages may be fetched from, whichever device names them; repeatable',
    shownDefault: "only the device's own address",
    check: httpUrl,
  },
  {
    name: 'mec-next',
    argument: 'NODE',
    help: 'a node of another site of the cluster that is asked where nothing fits on this one',
    shownDefault: 'nobody is asked',
  },
  {
    name: 'pod-cgroup',
    argument: 'PATH',
    help: 'cgroup below which the pods of applications get theirs',
    shownDefault: '/shoal',
    check: cgroup,
  },
  {
    name: 'pod-runtime',
    argument: 'NAME',
    help: 'the runtime that runs the pods of applications',
    shownDefault: 'containerd where it is there, else docker',
    choices: ['containerd', 'docker'],
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
