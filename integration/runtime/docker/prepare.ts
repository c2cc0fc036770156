import type { Readable } from 'node:stream'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { applyLayer } from '../layer.ts'
import type { Prepared, PrepareOptions } from '../types.ts'
import type { Inspected } from './container.ts'
import type { DockerPlace } from './dump.ts'
import { ensureImage, idOf } from './images.ts'
import { killAll } from './processes.ts'
import { RESTART_LABEL, restoreFrom } from './restore.ts'

/** Docker's rule for names. */
const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/

export interface PreparePlace extends DockerPlace {
  registry: string
}

/** What `describe` says beside the spec. */
export interface Own {
  Config: Inspected['Config']
  HostConfig: Inspected['HostConfig']
  networks: NonNullable<NonNullable<Inspected['NetworkSettings']>['Networks']>
}

/** @throws NAME_INVALID | BUSY (the name is taken) | UNFIT | NOT_FOUND | RUNTIME */
export async function prepare(
  place: PreparePlace,
  options: PrepareOptions,
  signal: AbortSignal,
): Promise<Prepared> {
  const { api, registry } = place
  const { name, recreation, image, netns, ports } = options
  if (!NAME.test(name))
    throw new ShoalError('NAME_INVALID', `no name for a container of docker’s: ${name.slice(0, 130)}`)
  const own = ownOf(recreation.own)
  const mode = own.HostConfig.NetworkMode ?? 'default'
  if (netns !== undefined) throw new ShoalError('UNFIT', 'docker joins no network namespace by its path')
  for (const [what, value] of Object.entries({
    network: mode,
    PID: own.HostConfig.PidMode,
    IPC: own.HostConfig.IpcMode,
  }))
    if (value?.startsWith('container:'))
      throw new ShoalError('UNFIT', `it shares the ${what} namespace of another container (${value})`)
  if (image === undefined) throw new ShoalError('UNFIT', 'docker makes no container without an image')
  if (await isTaken(place, name, signal)) throw new ShoalError('BUSY', `there is a container ${name} already`)
  const imageId = await ensureImage(api, { image, digest: recreation.image?.digest, registry, signal })
  const reference = recreation.image?.reference ?? image
  const named = await idOf(api, reference, signal).catch(() => undefined)
  const _body = {
    ...own.Config,
    Image: named === imageId ? reference : imageId,
    Labels: {
      ...recreation.labels,
      ...options.labels,
      [RESTART_LABEL]: recreation.labels[RESTART_LABEL] ?? JSON.stringify(own.HostConfig.RestartPolicy ?? {}),
    },
    // Removed by itself it could not be tried again.
    HostConfig: {
      ...own.HostConfig,
      ...(ports === undefined ? {} : { PortBindings: portBindings(ports) }),
      ContainerIDFile: '',
      AutoRemove: false,
      RestartPolicy: { Name: 'no' },
    },
    NetworkingConfig: { EndpointsConfig: endpoints(own, recreation.name) },
  }
  const made = await api(signal, (docker) => docker.createContainer({ _query: { name }, _body }))
  return prepared(place, made.id)
}

export function portBindings(ports: NonNullable<PrepareOptions['ports']>): Record<string, object[]> {
  return Object.fromEntries(ports.map(({ port, host }) => [`${port}/tcp`, [{ HostPort: `${host}` }]]))
}

/** @throws NOT_FOUND for one that `prepare` did not make */
export async function takeUp(place: PreparePlace, id: string, signal: AbortSignal): Promise<Prepared> {
  const { Id, Config } = await place.inspect(id, signal)
  if (Config.Labels?.[RESTART_LABEL] === undefined)
    throw new ShoalError('NOT_FOUND', `Shoal did not make the container ${id}`)
  return prepared(place, Id)
}

function prepared(place: PreparePlace, id: string): Prepared {
  return {
    id,
    async applyWritable(tar: Readable, signal: AbortSignal) {
      const found = await place.inspect(id, signal)
      if (found.State.Pid > 0) throw new ShoalError('BUSY', `${id} runs: its files are in use`)
      await applyLayer(tar, upperOf(found), { form: 'overlay', signal })
    },
    start: (dir, signal) => restoreFrom(place, id, dir, signal),
    async discard(signal: AbortSignal) {
      await remove(place, id, signal)
    },
  }
}

/**
 * True if there was one. Docker's own removal would thaw a paused one first.
 * @param volumes those without a name go, too
 */
export async function remove(
  place: Omit<DockerPlace, 'root'>,
  id: string,
  signal: AbortSignal,
  volumes = false,
): Promise<boolean> {
  try {
    const { State } = await place.inspect(id, signal)
    if (State.Status === 'paused') await killAll(State.Pid)
    await place.api(signal, (docker) => docker.getContainer(id).remove({ force: true, v: volumes }))
    return true
  } catch (error) {
    if (isShoalError(error, 'NOT_FOUND')) return false
    throw error
  }
}

/** @throws UNFIT for storage drivers without a directory for it */
export function upperOf({ Id, GraphDriver }: Inspected): string {
  const upper = GraphDriver.Data?.UpperDir
  if (!upper)
    throw new ShoalError(
      'UNFIT',
      `docker keeps ${Id} by its storage driver ${GraphDriver.Name}: overlay2 is supported`,
    )
  return upper
}

async function isTaken(place: DockerPlace, name: string, signal: AbortSignal): Promise<boolean> {
  try {
    return (await place.inspect(name, signal)).Name === `/${name}`
  } catch (error) {
    if (isShoalError(error, 'NOT_FOUND')) return false
    throw error
  }
}

/** What the container was called in its networks; addresses are the target's. */
function endpoints(own: Own, oldName: string): Record<string, unknown> {
  const { NetworkMode = 'default' } = own.HostConfig
  if (['default', 'bridge', 'none', 'host'].includes(NetworkMode)) return {}
  return Object.fromEntries(
    Object.entries(own.networks).map(([network, { Aliases }]) => [
      network,
      { Aliases: (Aliases ?? []).filter((alias) => alias !== oldName && !/^[0-9a-f]{12}$/.test(alias)) },
    ]),
  )
}

function ownOf(own: Record<string, unknown>): Own {
  const { Config, HostConfig, networks } = own as Partial<Own>
  if (typeof Config !== 'object' || typeof HostConfig !== 'object')
    throw new ShoalError('UNFIT', 'it was no container of docker’s')
  return { Config, HostConfig, networks: networks ?? {} }
}
