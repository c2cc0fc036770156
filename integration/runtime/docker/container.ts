import { readFile } from 'node:fs/promises'
import { type Digest, isDigest } from '../../../base/index.ts'
import { formatReference, parseReference } from '../../../proxy/index.ts'
import type { Container, ContainerState, OciSpec } from '../types.ts'
import type { DockerApi } from './api.ts'

/** What Shoal looks at of a container: dockerode's types know neither what is null nor overlay2. */
export interface Inspected {
  Id: string
  Name: string
  /** ID of the image. */
  Image: string
  Driver: string
  State: { Status: string; Pid: number; Error: string; ExitCode: number; OOMKilled: boolean }
  Config: {
    Image: string
    Hostname?: string
    Tty?: boolean
    Env?: string[] | null
    Cmd?: string[] | null
    Entrypoint?: string[] | null
    WorkingDir?: string
    Labels?: Record<string, string> | null
    [key: string]: unknown
  }
  HostConfig: {
    NetworkMode?: string
    PidMode?: string
    IpcMode?: string
    UTSMode?: string
    AutoRemove?: boolean
    RestartPolicy?: unknown
    Devices?: { PathInContainer: string }[] | null
    VolumesFrom?: unknown[] | null
    Links?: unknown[] | null
    [key: string]: unknown
  }
  GraphDriver: { Name: string; Data?: { UpperDir?: string } | null }
  Mounts?: { Type: string; Source?: string; Destination: string; RW?: boolean }[]
  NetworkSettings?: {
    Networks?: Record<string, { Aliases?: string[] | null; IPAMConfig?: unknown }> | null
  }
}

interface ImageInspected {
  RepoTags?: string[] | null
  RepoDigests?: string[] | null
}

const STATES: Record<string, ContainerState> = {
  created: 'created',
  running: 'running',
  paused: 'paused',
  // It has a process for moments only.
  restarting: 'stopped',
}

export async function containerOf(
  api: DockerApi,
  found: Inspected,
  registry: string,
  signal: AbortSignal,
): Promise<Container> {
  const state = STATES[found.State.Status] ?? 'stopped'
  const pid = state === 'running' || state === 'paused' ? found.State.Pid : 0
  return {
    runtime: 'docker',
    id: found.Id,
    name: found.Name.replace(/^\//, ''),
    state,
    pid: pid > 0 ? pid : undefined,
    image: await imageOf(api, found, registry, signal),
    labels: { ...found.Config.Labels },
    spec: (pid > 0 ? await bundleSpec(pid) : undefined) ?? configuredSpec(found),
  }
}

/** A name that other machines understand: with its registry, and without Shoal's own in front of that. */
export function properName(name: string, registry: string): string {
  const own = `${registry}/`
  return formatReference(parseReference(name.startsWith(own) ? name.slice(own.length) : name))
}

async function imageOf(
  api: DockerApi,
  found: Inspected,
  registry: string,
  signal: AbortSignal,
): Promise<{ reference: string; digest: Digest | undefined }> {
  // An image may have been removed by force.
  const image: ImageInspected = await api(signal, (docker) => docker.getImage(found.Image).inspect()).catch(
    () => ({}),
  )
  const digests = (image.RepoDigests ?? []).map((each) => properName(each, registry))
  const named = /^(sha256:)?[0-9a-f]{12,64}$/.test(found.Config.Image) ? undefined : found.Config.Image
  const name = named ?? image.RepoTags?.[0] ?? digests[0]
  if (name === undefined) return { reference: found.Config.Image, digest: undefined }
  const reference = properName(name, registry)
  const { host, repository, digest } = parseReference(reference)
  const known = digests.find((each) => each.startsWith(`${host}/${repository}@`)) ?? digests[0]
  const of = digest ?? known?.slice(known.indexOf('@') + 1)
  return { reference, digest: of !== undefined && isDigest(of) ? of : undefined }
}

/** The shim that watches over a container works in its bundle. */
export async function bundleOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
  const parent = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]
  const about = await readFile(`/proc/${parent}/cmdline`, 'latin1').catch(() => '')
  return about.split('\0')[0]?.includes('containerd-shim') ? `/proc/${parent}/cwd` : undefined
}

async function bundleSpec(pid: number): Promise<OciSpec | undefined> {
  const bundle = await bundleOf(pid)
  if (!bundle) return undefined
  try {
    return JSON.parse(await readFile(`${bundle}/config.json`, 'utf8')) as OciSpec
  } catch {
    return undefined
  }
}

/** As far as docker tells what it will be, for one that does not run. */
function configuredSpec({ Config, HostConfig, Mounts }: Inspected): OciSpec {
  const own = (mode: string | undefined): boolean => mode !== 'host'
  const kinds = [
    ['mount', true],
    ['pid', own(HostConfig.PidMode)],
    ['ipc', own(HostConfig.IpcMode)],
    ['uts', own(HostConfig.UTSMode)],
    ['network', own(HostConfig.NetworkMode)],
  ] as const
  return {
    ociVersion: '1.0.2',
    ...(Config.Hostname ? { hostname: Config.Hostname } : {}),
    process: {
      args: [...(Config.Entrypoint ?? []), ...(Config.Cmd ?? [])],
      env: Config.Env ?? [],
      cwd: Config.WorkingDir || '/',
      terminal: Config.Tty ?? false,
    },
    mounts: (Mounts ?? []).map(({ Source, Destination, RW }) => ({
      destination: Destination,
      type: 'bind',
      ...(Source ? { source: Source } : {}),
      options: ['rbind', RW === false ? 'ro' : 'rw'],
    })),
    linux: {
      namespaces: kinds.filter(([, isOwn]) => isOwn).map(([type]) => ({ type })),
      devices: (HostConfig.Devices ?? []).map(({ PathInContainer }) => ({
        path: PathInContainer,
        type: 'c',
      })),
    },
  }
}
