import { existsSync } from 'node:fs'
import { homedir, hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { parseBytes, ShoalError } from '../base/index.ts'
import { type HostPort, parseHostPort } from './address.ts'
import type { StoreWanted } from './api/storings.ts'
import { type ConfigFile, type Credential, readConfigFile } from './config-file.ts'
import { nearest } from './nearest.ts'
import { splitPair } from './setting-checks.ts'
import {
  DEFAULT_API,
  DEFAULT_REGISTRY,
  environmentName,
  SETTING_NAMES,
  SETTINGS,
  type Setting,
} from './settings.ts'
import { parseDuration, parsePercent, parseRate } from './units.ts'

/** What `serve` runs with. Rates are bytes a second, times milliseconds; absent: no limit, or off. */
export interface Config {
  dataDir: string
  registry: HostPort
  api: HostPort
  listen: string[]
  bootstrap: string[]
  name: string
  site: string
  /** Path of the file with the shared secret. */
  clusterKey?: string
  upstream: Record<string, string>
  credentials: Record<string, Credential>
  /** Images that the site shall always be able to start; in the file only. */
  store: StoreWanted[]
  quota?: number
  /** The part of the quota that eviction goes down to. */
  quotaLow: number
  /** Bytes. */
  minFree: number
  /** 0: off. */
  scrubEvery: number
  /** Bytes for stored images; absent: the quota, or the disk's size. */
  offer?: number
  leaveDelay: number
  repairRate: number
  uploadRate?: number
  downloadRate?: number
  tagTtl: number
  entitlementTtl: number
  offline: 'deny' | 'known' | 'open'
  localCopies: number
  localAck: 'quorum' | 'local-first'
  ca: string[]
  dockerConfig?: string
  mdns: boolean
  /** Absent: what the manager holds for the faster one. */
  encrypter?: 'noise' | 'tls'
  containerd?: string
  containerdRoot?: string
  /** Serve from containerd's files what is there. */
  borrow: boolean
  docker?: string
  /** runc's state directory. */
  runc?: string
  mec?: HostPort
  /** Paths of PEM files; each needs the other. */
  mecCert?: string
  mecKey?: string
  /** `DE` or `DE@52.52,13.40`. */
  mecPlace?: string
  /** Beginnings of URLs. */
  mecPackages: string[]
  /** Name or peer ID. */
  mecNext?: string
  podCgroup: string
  /** Undefined: the first one that is there. */
  podRuntime?: 'containerd' | 'docker'
  /** Path of the API's token. */
  apiToken: string
  logLevel: 'debug' | 'info' | 'warn' | 'error' | 'silent'
  /** What an operator should hear of, without credentials. */
  warnings: string[]
}

export interface ConfigInput {
  /** By setting, as the command line gave them; only what was given. */
  flags: Record<string, string | string[] | boolean>
  env: Record<string, string | undefined>
  /** Path of the configuration file, if there is one. */
  file?: string | undefined
  uid?: number
}

type Raw = { text: string | string[]; from: string }

/** What the launcher and the command line itself read; no settings. */
const OTHER_VARIABLES = new Set(['SHOAL_NODE', 'SHOAL_NODE_OPTIONS', 'SHOAL_CONFIG'])

function fromEnvironment(setting: Setting, env: ConfigInput['env']): Raw | undefined {
  const from = environmentName(setting.name)
  const value = env[from]
  if (value === undefined || value === '') return undefined
  const text = setting.list || setting.map ? value.split(/[\s,]+/).filter((item) => item !== '') : value
  return { text, from }
}

/** The one value of a setting that counts: flag, then environment, then file. */
function choose(setting: Setting, input: ConfigInput, file: ConfigFile | undefined): Raw | undefined {
  const flag = input.flags[setting.name]
  if (flag !== undefined) {
    return { text: typeof flag === 'boolean' ? String(flag) : flag, from: `--${setting.name}` }
  }
  const environment = fromEnvironment(setting, input.env)
  if (environment) return environment
  const text = file?.values.get(setting.name)
  return text === undefined ? undefined : { text, from: `${input.file}: ${setting.name}` }
}

function validate(setting: Setting, { text, from }: Raw): void {
  const items = typeof text === 'string' ? [text] : text
  const choices = setting.argument === undefined ? ['true', 'false'] : setting.choices
  for (const item of items) {
    if (choices && !choices.includes(item)) {
      throw new ShoalError('CONFIG', `${from}: must be ${choices.join(', ')}, not "${item}"`)
    }
    if (item === '') throw new ShoalError('CONFIG', `${from}: must not be empty`)
    try {
      setting.check?.(item)
    } catch (cause) {
      throw new ShoalError('CONFIG', `${from}: ${(cause as Error).message}`, { cause })
    }
  }
}

/** Variables that look like a setting's but are none: a typing error would otherwise go unnoticed. */
function strayVariables(env: ConfigInput['env']): string[] {
  const known = [...SETTING_NAMES].map(environmentName)
  const warnings: string[] = []
  for (const name of Object.keys(env)) {
    if (!name.startsWith('SHOAL_') || known.includes(name) || OTHER_VARIABLES.has(name)) continue
    const near = nearest(name, known)
    if (near && near.distance <= 2)
      warnings.push(`${name} is not a setting; did you mean ${near.name}? It is ignored`)
  }
  return warnings
}

/** /var/lib/shoal for root, else below $XDG_STATE_HOME or ~/.local/state. */
export function defaultDataDir(env: ConfigInput['env'], uid = process.getuid?.()): string {
  if (uid === 0) return '/var/lib/shoal'
  const state = env.XDG_STATE_HOME
  return join(state?.startsWith('/') ? state : join(env.HOME ?? homedir(), '.local/state'), 'shoal')
}

/** The host's name, as far as it is fit to be a node's. */
function hostLabel(): string {
  return (
    hostname()
      .replaceAll(/[^A-Za-z0-9._-]/g, '-')
      .replace(/^[^A-Za-z0-9]+/, '') || 'node'
  )
}

/** True where a program of that name is on the path. */
function isInstalled(program: string, env: NodeJS.ProcessEnv): boolean {
  return (env.PATH ?? '').split(':').some((dir) => dir !== '' && existsSync(join(dir, program)))
}

/**
 * Puts the configuration together: flag > SHOAL_* environment > file > default. A setting that takes several values is
 * replaced as a whole by the stronger source.
 * @throws ShoalError CONFIG, naming where the bad value stands
 */
export async function loadConfig(input: ConfigInput): Promise<Config> {
  const file = input.file === undefined ? undefined : await readConfigFile(input.file)
  const chosen = new Map<string, string | string[]>()
  for (const setting of SETTINGS) {
    const value = choose(setting, input, file)
    if (!value) continue
    validate(setting, value)
    chosen.set(setting.name, value.text)
  }
  const one = (name: string): string | undefined => {
    const value = chosen.get(name)
    return typeof value === 'string' ? value : value?.at(-1)
  }
  const many = (name: string): string[] => [chosen.get(name) ?? []].flat()
  const path = (name: string): string | undefined => {
    const value = one(name)
    return value === undefined || value.includes('://') ? value : resolve(value)
  }
  const given = <K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } =>
    value === undefined ? {} : ({ [key]: value } as { [P in K]: V })
  const as = <T>(name: string, parse: (text: string) => T): T | undefined => {
    const value = one(name)
    return value === undefined ? undefined : parse(value)
  }
  const whereExists = (candidate: string): string | undefined =>
    existsSync(candidate) ? candidate : undefined

  const dataDir = resolve(one('data-dir') ?? defaultDataDir(input.env, input.uid))
  const listen = many('listen')
  return {
    dataDir,
    registry: parseHostPort(one('registry') ?? DEFAULT_REGISTRY),
    api: parseHostPort(one('api') ?? DEFAULT_API),
    listen: listen.length > 0 ? listen : ['/ip4/0.0.0.0/tcp/5082'],
    bootstrap: many('bootstrap'),
    name: one('name') ?? hostLabel(),
    site: one('site') ?? 'default',
    ...given('clusterKey', path('cluster-key')),
    upstream: Object.fromEntries(many('upstream').map(splitPair)),
    credentials: file?.credentials ?? {},
    store: file?.store ?? [],
    ...given('quota', as('quota', parseBytes)),
    quotaLow: as('quota-low', parsePercent) ?? 0.9,
    minFree: as('min-free', parseBytes) ?? 0,
    // What nobody reads may rot unseen until the other copies are gone: a week is well below the life of those.
    scrubEvery: as('scrub-every', parseDuration) ?? 7 * 86400e3,
    ...given('offer', as('offer', parseBytes)),
    leaveDelay: as('leave-delay', parseDuration) ?? 600e3,
    repairRate: as('repair-rate', parseRate) ?? 25e6,
    ...given('uploadRate', as('upload-rate', parseRate)),
    ...given('downloadRate', as('download-rate', parseRate)),
    tagTtl: as('tag-ttl', parseDuration) ?? 30e3,
    entitlementTtl: as('entitlement-ttl', parseDuration) ?? 300e3,
    offline: (one('offline') ?? 'known') as Config['offline'],
    localCopies: as('local-copies', Number) ?? 2,
    localAck: (one('local-ack') ?? 'quorum') as Config['localAck'],
    ca: many('ca').map((item) => resolve(item)),
    ...given(
      'dockerConfig',
      path('docker-config') ??
        whereExists(
          join(input.env.DOCKER_CONFIG ?? join(input.env.HOME ?? homedir(), '.docker'), 'config.json'),
        ),
    ),
    mdns: one('mdns') === 'true',
    ...given('encrypter', one('encrypter') as Config['encrypter']),
    ...given('containerd', path('containerd') ?? whereExists('/run/containerd/containerd.sock')),
    ...given('containerdRoot', path('containerd-root') ?? whereExists('/var/lib/containerd')),
    borrow: one('borrow') !== 'false',
    ...given('docker', path('docker') ?? whereExists('/run/docker.sock')),
    ...given('runc', path('runc') ?? (isInstalled('runc', input.env) ? '/run/runc' : undefined)),
    ...given('mec', as('mec', parseHostPort)),
    ...given('mecCert', path('mec-cert')),
    ...given('mecKey', path('mec-key')),
    ...given('mecPlace', one('mec-place')),
    mecPackages: many('mec-packages'),
    ...given('mecNext', one('mec-next')),
    podCgroup: one('pod-cgroup') ?? '/shoal',
    ...given('podRuntime', one('pod-runtime') as Config['podRuntime']),
    apiToken: path('api-token') ?? join(dataDir, 'api.token'),
    logLevel: (one('log-level') ?? 'info') as Config['logLevel'],
    warnings: [...(file?.warnings ?? []), ...strayVariables(input.env)],
  }
}

/**
 * Where a client command finds its daemon, and the token it may have: the file may be unreadable for whoever asks for the
 * status, so that only a file that was named must be fit.
 */
export async function loadClientConfig(input: ConfigInput): Promise<{ api: HostPort; apiToken: string }> {
  const { api, apiToken } = await loadConfig(input)
  return { api, apiToken }
}
