import type { Place, Recreation } from '../runtime/types.ts'

/** Devices that every OCI runtime makes by itself, and that CRIU knows. */
const ORDINARY =
  /^\/dev\/(?:null|zero|full|random|urandom|tty|console|ptmx|pts(?:\/.*)?|shm(?:\/.*)?|mqueue)$/

export function isOrdinaryDevice(path: string): boolean {
  return ORDINARY.test(path)
}

/** What a container uses of the machine below it, as its configuration says. */
export interface Demands {
  /** Sources of bind mounts. */
  mounts: string[]
  devices: string[]
  /** Paths of namespaces that it joins. */
  namespaces: string[]
  /** Published on the host. */
  ports: { protocol: string; port: number }[]
}

/** @param place used instead of the configuration's */
export function demandsOf(recreation: Recreation, place: Place = {}): Demands {
  const { mounts = [], linux } = recreation.spec
  const binds = mounts.filter(
    ({ type, options = [] }) =>
      type === 'bind' || options.some((each) => each === 'bind' || each === 'rbind'),
  )
  return {
    mounts: unique(
      binds
        .filter(({ destination }) => !isProvided(recreation, destination))
        .map(({ source }) => source ?? '')
        .filter((source) => source.startsWith('/')),
    ),
    devices: unique((linux?.devices ?? []).map(({ path }) => path).filter((path) => !isOrdinaryDevice(path))),
    namespaces: unique(
      (linux?.namespaces ?? [])
        .filter(({ type }) => type !== 'network' || place.netns === undefined)
        .map(({ path }) => path ?? '')
        .filter((path) => path !== '' && !isProcess(path)),
    ),
    ports: place.ports?.map(({ host }) => ({ protocol: 'tcp', port: host })) ?? published(recreation),
  }
}

/** Docker makes these files of a container anew, wherever it is. */
function isProvided({ runtime }: Recreation, destination: string): boolean {
  return runtime === 'docker' && /^\/etc\/(?:resolv\.conf|hostname|hosts)$|^\/dev\/shm$/.test(destination)
}

/** A namespace of another process: whether that one is there tells nothing about another machine. */
function isProcess(path: string): boolean {
  return path.startsWith('/proc/')
}

/** Docker's HostConfig.PortBindings: `{"6379/tcp": [{"HostIp": "", "HostPort": "6379"}]}`. */
function published({ own }: Recreation): Demands['ports'] {
  const bindings = field(field(own, 'HostConfig'), 'PortBindings')
  if (typeof bindings !== 'object' || bindings === null) return []
  return Object.entries(bindings).flatMap(([key, list]) => {
    const protocol = key.split('/')[1] ?? 'tcp'
    return (Array.isArray(list) ? list : [])
      .map((each) => ({ protocol, port: Number(field(each, 'HostPort')) }))
      .filter(({ port }) => Number.isInteger(port) && port > 0)
  })
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
}

function unique(texts: string[]): string[] {
  return [...new Set(texts)]
}
