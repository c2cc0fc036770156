import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isDigest, type Log, ShoalError } from '../../../base/index.ts'
import { readLayer } from '../layer.ts'
import { ociFacts } from '../oci.ts'
import { mountedAt } from '../spec.ts'
import type { Container, ContainerState, Runtime } from '../types.ts'
import type { ContainerRecord, Process } from './api.ts'
import { connectContainerd, unwrap } from './client.ts'
import { dump } from './dump.ts'
import { exec } from './exec.ts'
import { logOf, type Own, prepare, preparedContainer } from './prepare.ts'
import { writableOf } from './snapshot.ts'
import { LOG_LABEL, missing, removeContainer, specOf } from './workload.ts'

export interface ContainerdRuntimeOptions {
  address: string
  namespace?: string
  /** Where images are pulled from, HOST:PORT. */
  registry: string
  dir: string
  log: Log
}

const STATES: Record<Process['status'], ContainerState> = {
  UNKNOWN: 'stopped',
  CREATED: 'created',
  RUNNING: 'running',
  STOPPED: 'stopped',
  PAUSED: 'paused',
  PAUSING: 'paused',
}
/** Another runtime's checkpoints, if it makes any, are not CRIU's. */
const RUNC = 'io.containerd.runc.v2'

export function createContainerdRuntime(options: ContainerdRuntimeOptions): Runtime {
  const client = connectContainerd(options)
  const place = { client, registry: options.registry, dir: join(options.dir, 'containerd') }

  function container(
    record: ContainerRecord,
    task: Process | undefined,
    digests: ReadonlyMap<string, string>,
  ): Container {
    const digest = digests.get(record.image) ?? ''
    const state = task ? STATES[task.status] : 'created'
    return {
      runtime: 'containerd',
      id: record.id,
      name: record.labels['nerdctl/name'] ?? record.id,
      state,
      pid: task && state !== 'stopped' ? task.pid : undefined,
      image:
        record.image === ''
          ? undefined
          : { reference: record.image, digest: isDigest(digest) ? digest : undefined },
      labels: record.labels,
      spec: specOf(record),
    }
  }

  async function status(id: string, signal: AbortSignal): Promise<Process['status'] | undefined> {
    return (await client.tasks.get({ containerId: id }, { signal }).catch(missing))?.process.status
  }

  async function list(signal: AbortSignal): Promise<Container[]> {
    const [{ containers }, { tasks }, { images }] = await Promise.all([
      client.containers.list({}, { signal }),
      client.tasks.list({}, { signal }),
      client.images.list({}, { signal }),
    ])
    const byId = new Map(tasks.map((task) => [task.id, task]))
    const digests = new Map(images.map(({ name, target }) => [name, target?.digest ?? '']))
    return containers.map((record) => container(record, byId.get(record.id), digests))
  }

  return {
    name: 'containerd',
    async facts(signal) {
      const [{ version }, { oci, criu, why }] = await Promise.all([
        client.version.version({}, { signal }),
        ociFacts({ signal }),
      ])
      const able = criu !== undefined && why.length === 0
      return {
        name: 'containerd',
        version,
        oci,
        criu,
        can: { checkpoint: able, restore: able, run: oci.version !== '' },
        why,
      }
    },
    list,
    async inspect(name, signal) {
      const all = await list(signal)
      const named = all.filter((one) => one.id === name || one.name === name)
      const found = named.length > 0 ? named : all.filter((one) => name !== '' && one.id.startsWith(name))
      if (found.length > 1)
        throw new ShoalError('NOT_FOUND', `several containers of containerd are called ${name}`)
      if (!found[0]) throw new ShoalError('NOT_FOUND', `containerd has no container ${name}`)
      return found[0]
    },
    async describe(id, signal) {
      const [{ container: record }, { images }, task] = await Promise.all([
        client.containers.get({ id }, { signal }),
        client.images.list({}, { signal }),
        client.tasks.get({ containerId: id }, { signal }).catch(missing),
      ])
      const runtime = record.runtime?.name ?? ''
      if (runtime !== RUNC) throw new ShoalError('UNFIT', `${id} is run by ${runtime}, not by ${RUNC}`)
      const runc = unwrap('containerd.runc.v1.Options', record.runtime?.options ?? null)
      const { [LOG_LABEL]: log, ...labels } = record.labels
      const own: Own = {
        runtime,
        binaryName: runc?.binaryName ?? '',
        systemdCgroup: runc?.systemdCgroup ?? false,
        snapshotter: record.snapshotter,
        logged: log !== undefined,
      }
      const digests = new Map(images.map(({ name, target }) => [name, target?.digest ?? '']))
      const { name, image, spec } = container(record, task?.process, digests)
      return { runtime: 'containerd', name, image, labels, spec, own: { ...own } }
    },
    async pause(id, signal) {
      if ((await status(id, signal)) === 'PAUSED') return
      await client.tasks.pause({ containerId: id }, { signal })
    },
    async resume(id, signal) {
      if ((await status(id, signal)) === 'RUNNING') return
      await client.tasks.resume({ containerId: id }, { signal })
    },
    dump: (id, how, signal) => dump({ client, id, dir: place.dir }, how, signal),
    async writable(id, signal) {
      const { container: record } = await client.containers.get({ id }, { signal })
      const { dir, form } = await writableOf(client, record, signal)
      return readLayer(dir, { form, hidden: mountedAt(specOf(record)), signal })
    },
    prepare: (wanted, signal) => prepare(place, wanted, signal),
    async prepared(id, signal) {
      await client.containers.get({ id }, { signal })
      return preparedContainer(place, id)
    },
    exec: (id, args, how) => exec({ client, id, dir: place.dir }, args, how),
    async remove(id, signal) {
      const had = await removeContainer(client, id, signal)
      await rm(logOf(place.dir, id), { force: true })
      return had
    },
    close: async () => client.close(),
  }
}
