import { isShoalError, ShoalError } from '../../../base/index.ts'
import {
  type DockerApi,
  type Inspected,
  inspectContainer,
  portBindings,
  pulledName,
  pullImage,
  removeContainer,
} from '../../runtime/docker/index.ts'
import type { DriverPod, PodDriver, PodStart } from '../executor.ts'

const ANSWER_MS = 5000
/** Below this docker makes no container. */
const LEAST_MEMORY = 6 * 2 ** 20

/**
 * Docker runs pods as containers of its own, each by name, which start again only when Shoal says so. Images are pulled by it through
 * the node's Shoal and stay when the pods are gone; output is docker's to keep (`docker logs`).
 */
export function createDockerDriver(deps: {
  api: DockerApi
  /** Where the node's registry listens, HOST:PORT. */
  registry: string
  cgroupParent: string
  /** Label by which this node's containers are known, and its value. */
  mine: { label: string; value: string }
  /** Pods live in the node's own network. */
  hosted: boolean
}): PodDriver {
  const { api, registry, cgroupParent, mine, hosted } = deps
  const inspect = (name: string, signal: AbortSignal) => inspectContainer(api, name, signal)

  async function lookFor(name: string, signal: AbortSignal): Promise<Inspected | undefined> {
    try {
      const found = await inspect(name, signal)
      // The beginning of an ID finds a container, too.
      return found.Name === `/${name}` ? found : undefined
    } catch (error) {
      if (isShoalError(error, 'NOT_FOUND')) return undefined
      throw error
    }
  }

  const pidOf = ({ State: { Status, Pid } }: Inspected): number | undefined =>
    (Status === 'running' || Status === 'paused') && Pid > 0 ? Pid : undefined

  async function remove(name: string, signal: AbortSignal): Promise<boolean> {
    if ((await lookFor(name, signal)) === undefined) return false
    return removeContainer({ api, inspect }, name, signal, true)
  }

  /** systemd has no paths for cgroups, but slices of its own. */
  async function parent(signal: AbortSignal): Promise<{ CgroupParent?: string }> {
    const { CgroupDriver } = (await api(signal, (docker) => docker.info())) as { CgroupDriver?: string }
    return CgroupDriver === 'cgroupfs' ? { CgroupParent: cgroupParent } : {}
  }

  return {
    runtime: 'docker',

    async unfit(signal) {
      try {
        await api(signal, (docker) => docker.version(), ANSWER_MS)
        return undefined
      } catch (error) {
        return (error as Error).message
      }
    },

    pull: (image, signal) => pullImage(api, { image, registry, signal }),

    async list(signal) {
      const filters = { label: [`${mine.label}=${mine.value}`] }
      const found = await api(signal, (docker) => docker.listContainers({ all: true, filters }))
      return found.map(({ Names, Labels }) => ({ name: Names[0]?.slice(1) ?? '', labels: Labels }))
    },

    async find(name, signal): Promise<DriverPod | undefined> {
      const found = await lookFor(name, signal)
      return found && { name, labels: { ...found.Config.Labels }, pid: pidOf(found) }
    },

    async start(pod, signal) {
      const { name } = pod
      await remove(name, signal)
      const place = { ...(await parent(signal)), NetworkMode: hosted ? 'host' : 'default' }
      const _body = bodyOf(pod, pulledName(pod.spec.image, registry), place)
      // Docker goes on with it whoever waits: what it makes must be there when something else is done with the name.
      const patient = new AbortController().signal
      await api(patient, (docker) => docker.createContainer({ _query: { name }, _body }))
      await api(patient, (docker) => docker.getContainer(name).start())
      const found = await inspect(name, signal)
      const pid = pidOf(found)
      if (pid === undefined) throw new ShoalError('RUNTIME', endOf(found))
      return { pid }
    },

    async ending(name, signal) {
      const found = await lookFor(name, signal)
      return found?.State.Status === 'exited' ? endOf(found) : undefined
    },

    async usage(name, signal) {
      try {
        const sized = await api(signal, (docker) => docker.getContainer(name).inspect({ size: true }))
        return (sized as { SizeRw?: number }).SizeRw
      } catch (error) {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      }
    },

    remove,
  }
}

function endOf({ State: { ExitCode, OOMKilled, Error: said } }: Inspected): string {
  const why = OOMKilled ? ': it needed more memory than it may have' : said ? `: ${said}` : ''
  return `it ended with code ${ExitCode}${why}`
}

function bodyOf({ labels, spec, ports }: PodStart, Image: string, place: { NetworkMode: string }): object {
  const { args, env, cpu, memory } = spec
  const hosted = place.NetworkMode === 'host'
  return {
    Image,
    Labels: labels,
    Env: Object.entries(env).map(([key, value]) => `${key}=${value}`),
    ...(args.length > 0 ? { Cmd: args } : {}),
    ...(hosted ? {} : { Hostname: spec.name }),
    ExposedPorts: Object.fromEntries(ports.map(({ port }) => [`${port}/tcp`, {}])),
    HostConfig: {
      ...place,
      ...(hosted ? {} : { PortBindings: portBindings(ports) }),
      RestartPolicy: { Name: 'no' },
      LogConfig: { Type: 'json-file', Config: { 'max-size': '4m', 'max-file': '1' } },
      ...(cpu > 0 ? { NanoCpus: Math.max(10e6, Math.round(cpu * 1e9)) } : {}),
      ...(memory > 0 ? { Memory: Math.max(memory, LEAST_MEMORY) } : {}),
    },
  }
}
