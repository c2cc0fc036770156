import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Digest, isShoalError, ShoalError } from '../../../base/index.ts'
import { criuWords } from '../criu.ts'
import { applyLayer } from '../layer.ts'
import { refuseHooks, uniqueCgroup, withNamespace } from '../spec.ts'
import type { OciSpec, Prepared, PrepareOptions, Recreation } from '../types.ts'
import { type ContainerdClient, wrap, wrapJson } from './client.ts'
import { inspectImage, type LocalImage, pullImage } from './image.ts'
import { writableOf } from './snapshot.ts'
import { LOG_LABEL, missing, removeContainer, removeRecord, startContainer } from './workload.ts'

/** containerd's rule for names. */
const ID = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/
const DEFAULT_SNAPSHOTTER = 'overlayfs'
/** The runtimes whose checkpoints are CRIU's. What the source says never names another program to be run here. */
const RUNC = 'io.containerd.runc.v2'
const BINARIES = ['', 'runc', 'crun']

/** What `describe` says beside the spec. */
export interface Own {
  runtime: string
  binaryName: string
  systemdCgroup: boolean
  snapshotter: string
  /** Its output goes to a file: at the target to one that the target chooses. */
  logged: boolean
}

interface Place {
  client: ContainerdClient
  registry: string
  dir: string
}

/** @throws BUSY (the name is taken) | NAME_INVALID | UNFIT | NOT_FOUND | RUNTIME */
export async function prepare(place: Place, options: PrepareOptions, signal: AbortSignal): Promise<Prepared> {
  const { client } = place
  const { name, recreation, netns, labels } = options
  if (!ID.test(name) || name.length > 76)
    throw new ShoalError('NAME_INVALID', `no name for a container: ${name}`)
  const own = ownOf(recreation)
  refuseHooks(recreation.spec)
  const taken = await client.containers.get({ id: name }, { signal }).catch(missing)
  if (taken) throw new ShoalError('BUSY', `there is a container ${name} already`)
  const snapshotKey = `${name}-${randomBytes(4).toString('hex')}`
  const log = labels?.[LOG_LABEL] ?? (own.logged ? logOf(place.dir, name) : undefined)
  const { [LOG_LABEL]: _, ...kept } = recreation.labels
  const snapshotter = await snapshotterFor(client, own, signal)
  const image =
    options.image === undefined
      ? undefined
      : await unpackedImage(place, options.image, recreation.image?.digest, snapshotter, signal)
  // Before its snapshot, as what no container names is garbage.
  await client.containers.create(
    {
      container: {
        id: name,
        labels: {
          ...kept,
          ...labels,
          ...(log === undefined ? {} : { [LOG_LABEL]: log }),
        },
        image: image?.reference ?? '',
        runtime: {
          name: own.runtime,
          options: wrap('containerd.runc.v1.Options', {
            binaryName: own.binaryName,
            systemdCgroup: own.systemdCgroup,
          }),
        },
        spec: wrapJson('Spec', specFor(recreation.spec, name, netns)),
        snapshotter,
        snapshotKey,
      },
    },
    { signal },
  )
  try {
    await client.snapshots.prepare(
      { snapshotter, key: snapshotKey, parent: image?.chainId ?? '' },
      { signal },
    )
  } catch (error) {
    await removeRecord(client, name, AbortSignal.timeout(10_000)).catch(() => {})
    throw error
  }
  return preparedContainer(place, name)
}

/** Where a restored container's output goes, if somewhere and nobody says where. */
export function logOf(dir: string, id: string): string {
  return join(dir, 'logs', `${id}.log`)
}

/** Takes up what was prepared before. */
export function preparedContainer({ client, dir }: Place, id: string): Prepared {
  return {
    id,
    async applyWritable(tar, signal) {
      const { container } = await client.containers.get({ id }, { signal })
      const { dir: upper, form } = await writableOf(client, container, signal)
      await applyLayer(tar, upper, { form, signal })
    },
    async start(images, signal) {
      const { container } = await client.containers.get({ id }, { signal })
      const log = container.labels[LOG_LABEL]
      await mkdir(join(dir, 'logs'), { recursive: true, mode: 0o700 })
      const workDir = await mkdtemp(join(dir, 'restore-'))
      try {
        const restore = { dir: images, workDir }
        return await startContainer({ client, id, restore, ...(log === undefined ? {} : { log }), signal })
      } catch (error) {
        if (!isShoalError(error, 'RUNTIME')) throw error
        const words = await criuWords(workDir, 'restore.log')
        throw new ShoalError('RUNTIME', `${id} could not be restored: ${words || error.message}`, {
          cause: error,
        })
      } finally {
        await rm(workDir, { recursive: true, force: true })
      }
    },
    async discard(signal) {
      await removeContainer(client, id, signal)
      await rm(logOf(dir, id), { force: true })
    },
  }
}

/** The source's word is not trusted. */
function ownOf({ runtime, own }: Recreation): Own {
  const text = (value: unknown, fallback: string): string => (typeof value === 'string' ? value : fallback)
  if (runtime !== 'containerd') {
    throw new ShoalError('UNFIT', `a container of ${runtime} cannot be made by containerd`)
  }
  const made = {
    runtime: text(own.runtime, RUNC),
    binaryName: text(own.binaryName, ''),
    systemdCgroup: own.systemdCgroup === true,
    snapshotter: text(own.snapshotter, DEFAULT_SNAPSHOTTER),
    logged: own.logged === true,
  }
  if (made.runtime === RUNC && BINARIES.includes(made.binaryName)) return made
  throw new ShoalError('UNFIT', `${made.runtime} ${made.binaryName} is no runtime that can restore here`)
}

function specFor(spec: OciSpec, id: string, netns: string | undefined): OciSpec {
  const path = spec.linux?.cgroupsPath
  const placed =
    path === undefined ? spec : { ...spec, linux: { ...spec.linux, cgroupsPath: uniqueCgroup(path, id) } }
  return netns === undefined ? placed : withNamespace(placed, 'network', netns)
}

/** The same one as at the source where it is here, overlayfs otherwise: only the writable layer must fit. */
async function snapshotterFor(client: ContainerdClient, own: Own, signal: AbortSignal): Promise<string> {
  const { plugins } = await client.introspection.plugins(
    { filters: ['type==io.containerd.snapshotter.v1'] },
    { signal },
  )
  return plugins.some(({ id }) => id === own.snapshotter) ? own.snapshotter : DEFAULT_SNAPSHOTTER
}

/** The image of this digest, under this name if it is the one that has it. */
async function unpackedImage(
  { client, registry, dir }: Place,
  reference: string,
  digest: Digest | undefined,
  snapshotter: string,
  signal: AbortSignal,
): Promise<LocalImage> {
  const fits = (image: LocalImage): boolean => digest === undefined || image.digest === digest
  const pull = (name: string): Promise<LocalImage> =>
    pullImage({ client, reference: name, registry, dir, snapshotter, signal })
  const here = await inspectImage(client, reference, signal).catch(missing)
  if (here && fits(here) && (await isUnpacked(client, here, snapshotter, signal))) return here
  const pulled = here && !fits(here) ? here : await pull(reference)
  if (fits(pulled)) return pulled
  // The tag names another image by now, here or upstream.
  return pull(`${reference.replace(/@.*$/, '').replace(/:[^:/]*$/, '')}@${digest}`)
}

async function isUnpacked(
  client: ContainerdClient,
  { chainId }: LocalImage,
  snapshotter: string,
  signal: AbortSignal,
): Promise<boolean> {
  if (chainId === '') return true
  return (await client.snapshots.stat({ snapshotter, key: chainId }, { signal }).catch(missing)) !== undefined
}
