import { access } from 'node:fs/promises'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { readLayer } from '../layer.ts'
import { ociFacts } from '../oci.ts'
import { mountedAt } from '../spec.ts'
import type { Container, Runtime, RuntimeFacts } from '../types.ts'
import { createDockerApi, type DockerApi } from './api.ts'
import { containerOf, type Inspected } from './container.ts'
import { dump, turn } from './dump.ts'
import { exec } from './exec.ts'
import { type PreparePlace, prepare, remove, takeUp, upperOf } from './prepare.ts'

export { createDockerApi, type DockerApi } from './api.ts'
export type { Inspected } from './container.ts'
export { pulledName, pullImage } from './images.ts'
export { portBindings, remove as removeContainer } from './prepare.ts'

export interface DockerOptions {
  /** Path of the daemon's socket. */
  socket: string
  /** Where images are pulled from, HOST:PORT. */
  registry: string
}

interface Info {
  ServerVersion: string
  DockerRootDir: string
  Driver: string
  ExperimentalBuild: boolean
  DefaultRuntime: string
  Runtimes?: Record<string, { path?: string }>
}

/**
 * Containers of a docker daemon on this machine: its files are used as well as its socket. A checkpoint by docker is experimental,
 * and leaves the network out: a restored container has the addresses that docker gives it.
 */
export function createDockerRuntime({ socket, registry }: DockerOptions): Runtime {
  const api = createDockerApi(socket)
  let rootDir: string | undefined
  const info = (signal: AbortSignal): Promise<Info> => api(signal, (docker) => docker.info() as Promise<Info>)
  const place: PreparePlace = {
    api,
    registry,
    async root(signal) {
      rootDir ??= (await info(signal)).DockerRootDir
      return rootDir
    },
    inspect: (id, signal) => inspectContainer(api, id, signal),
  }

  async function inspect(container: string, signal: AbortSignal): Promise<Container> {
    return containerOf(api, await place.inspect(container, signal), registry, signal)
  }

  async function bring(id: string, to: 'pause' | 'unpause', signal: AbortSignal): Promise<void> {
    const { State } = await place.inspect(id, signal)
    if ((State.Status === 'paused') !== (to === 'pause')) await turn(api, id, to, signal)
  }

  return {
    name: 'docker',
    facts: async (signal) => factsOf(await info(signal), signal),
    async list(signal) {
      const all = await api(signal, (docker) => docker.listContainers({ all: true }))
      const read = await Promise.all(
        all.map(({ Id }) =>
          inspect(Id, signal).catch((error: unknown) => {
            // Removed since.
            if (!isShoalError(error, 'NOT_FOUND')) throw error
          }),
        ),
      )
      return read.filter((container) => container !== undefined)
    },
    inspect,
    async describe(id, signal) {
      const found = await place.inspect(id, signal)
      const { name, image, labels, spec } = await containerOf(api, found, registry, signal)
      const { Config, HostConfig, NetworkSettings } = found
      const own = { Config, HostConfig, networks: NetworkSettings?.Networks ?? {} }
      return { runtime: 'docker', name, image, labels, spec, own }
    },
    pause: (id, signal) => bring(id, 'pause', signal),
    resume: (id, signal) => bring(id, 'unpause', signal),
    dump: (id, options, signal) => dump(place, id, options, signal),
    async writable(id, signal) {
      const found = await place.inspect(id, signal)
      const { spec } = await containerOf(api, found, registry, signal)
      return readLayer(upperOf(found), { form: 'overlay', hidden: mountedAt(spec), signal })
    },
    prepare: (options, signal) => prepare(place, options, signal),
    prepared: (id, signal) => takeUp(place, id, signal),
    exec: (id, args, options) => exec(api, id, args, options),
    remove: (id, signal) => remove(place, id, signal),
    async close() {},
  }
}

/** @throws NOT_FOUND */
export async function inspectContainer(api: DockerApi, id: string, signal: AbortSignal): Promise<Inspected> {
  if (id === '') throw new ShoalError('NOT_FOUND', 'no container without a name')
  const found = await api(signal, (docker) => docker.getContainer(encodeURIComponent(id)).inspect())
  return found as unknown as Inspected
}

async function factsOf(info: Info, signal: AbortSignal): Promise<RuntimeFacts> {
  const runtime = info.Runtimes?.[info.DefaultRuntime]
  const { oci, criu, why } = await ociFacts({ runc: runtime?.path || info.DefaultRuntime, signal })
  if (!info.ExperimentalBuild)
    why.push('docker runs without "experimental": true, so it makes no checkpoints')
  if (info.Driver !== 'overlay2')
    why.push(`docker’s storage driver is ${info.Driver}: only overlay2 has a writable layer that can be read`)
  const readable = await access(info.DockerRootDir).then(
    () => true,
    () => false,
  )
  if (!readable) why.push(`docker’s data root ${info.DockerRootDir} cannot be read here`)
  const can = criu !== undefined && why.length === 0
  return {
    name: 'docker',
    version: info.ServerVersion,
    oci,
    criu,
    can: { checkpoint: can, restore: can, run: true },
    why,
  }
}
